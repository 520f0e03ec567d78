# SPDX-License-Identifier: Apache-2.0
"""The start of a training with as much data as COCO: time and memory until the first batch, for every process.

python benchmarks/coco_start.py: writes an instances file with the number of images and objects of train2017 (470 MB) to
a temporary folder, reads it as `train` does, alone and with two ranks, and starts the loader. Then: reading as many VOC
annotations as VOC 07+12 has, and the COCO metrics with false discovery rates of as many images as val2017 has, 100
detections each. The bounds are 4 s and 1,000 MB for the process that reads, and 200 MB for the other ranks.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine
import numpy as np
from cluster import launch
from large_files import HEIGHT, WIDTH, write_coco, write_voc

from pointdet.config import schema
from pointdet.data.catalogue import read_dataset
from pointdet.structures import Annotation, Dataset, Detections, Record

SECONDS, READER_MB, RANK_MB = 4.0, 1000, 200
CLASSES = 80
RANKS = (1, 2)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images", type=int, default=118_287, help="images of the COCO file (default: 118287)"
    )
    parser.add_argument("--objects", type=int, default=860_001, help="its objects (default: 860001)")
    parser.add_argument("--voc", type=int, default=21_503, help="VOC annotations (default: 21503)")
    parser.add_argument("--evaluated", type=int, default=5000, help="evaluated images (default: 5000)")
    parser.add_argument(
        "--rank-of", type=Path, metavar="FOLDER", help=argparse.SUPPRESS
    )  # the ranks of mpirun
    args = parser.parse_args()
    if args.rank_of is not None:
        figures = start(args.rank_of)
        if figures is not None:
            print(json.dumps(figures))
        return 0

    print(machine.describe())
    with tempfile.TemporaryDirectory() as folder:
        size = write_coco(Path(folder), args.images, args.objects).stat().st_size
        print(f"COCO: {args.images} images, {args.objects} objects, {size / 1e6:.0f} MB")
        within = [report(ranks, start_ranks(ranks, folder)) for ranks in RANKS]
    with tempfile.TemporaryDirectory() as folder:
        image_set = write_voc(Path(folder), args.voc)
        times = [seconds_of_voc(Path(folder), image_set) for _ in range(2)]
        print(f"VOC: {args.voc} annotations in {min(times):.2f} s")
    print(
        f"COCO metrics and false discovery rates of {args.evaluated} images in {evaluate(args.evaluated):.2f} s"
    )
    return 0 if all(within) else 1


def start_ranks(ranks: int, folder: str) -> list[dict[str, Any]]:
    """Run this file with mpirun and return the figures of its ranks."""
    command = [launch.mpirun(), "--timeout", "300", "--bind-to", "none", "--oversubscribe", "-n", str(ranks)]
    return list(
        launch.last_line([*command, sys.executable, __file__, "--rank-of", folder], f"mpirun -n {ranks}")
    )


def start(folder: Path) -> list[dict[str, Any]] | None:
    """Start a training up to its first batches. Returns the figures of all ranks on rank 0, and None on the others."""
    from pointdet import runtime
    from pointdet.data.augment import Augmenter
    from pointdet.data.loader import Loader
    from pointdet.detectors.ctdet.codec import CtDetCodec
    from pointdet.training import trainer  # noqa: F401  its imports belong to the memory of a rank

    ranks = runtime.start().ranks
    before = memory("self")
    began = time.perf_counter()
    train = schema.SplitConfig(annotations=("annotations/instances_train2017.json",), images="train2017")
    config = schema.DatasetConfig(dataset="large", format="coco", data_dir=str(folder), train=train)
    dataset = read_dataset(config, "train", ranks=ranks)
    seconds, after, peak = time.perf_counter() - began, memory("self"), highest("self")
    augmenter = Augmenter(schema.AugmentConfig(), schema.InputConfig())
    codec = CtDetCodec.of(schema.CtDetConfig(), CLASSES, augmenter.input.height, augmenter.input.width)
    # One image in a batch: the memory of the batches shall not hide that of the dataset.
    with Loader(dataset, augmenter, codec, 1, 0, 1, ranks.rank, ranks.size) as loader:
        next(loader.epoch(0))
        ready = time.perf_counter() - began
        (worker,) = multiprocessing.active_children()
        workers = memory(str(worker.pid))
        ranks.sum(np.zeros(1))  # measure before the first one ends
    figures = {
        "read": seconds,
        "ready": ready,
        "before": before,
        "after": after,
        "peak": peak,
        "worker": workers,
    }
    return ranks.gather(figures)


def memory(process: str) -> dict[str, float]:
    """MB of a process: resident, and the part that it shares with no other process."""
    lines = (Path("/proc") / process / "smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    kilobytes = {name: int(value.split()[0]) for name, value in (line.split(":") for line in lines)}
    own = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
    return {"resident": kilobytes["Rss"] * 1.024e-3, "own": own * 1.024e-3}


def highest(process: str) -> float:
    """The largest resident size of a process until now, MB."""
    text = (Path("/proc") / process / "status").read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1.024e-3


def report(ranks: int, figures: list[dict[str, Any]]) -> bool:
    """Print the figures. Returns whether they are within the bounds."""
    print(
        f"mpirun -n {ranks}: seconds to read, to the first batch; MB before, after, at most; MB of the loader process"
    )
    for rank, f in enumerate(figures):
        sizes = [f["before"]["resident"], f["after"]["resident"], f["peak"]]
        print(
            f"  rank {rank}: {f['read']:.2f}, {f['ready']:.2f}; {', '.join(f'{size:.0f}' for size in sizes)}; "
            f"{f['worker']['resident']:.0f} resident, {f['worker']['own']:.0f} its own"
        )
    reader, *others = figures
    return (
        reader["read"] <= SECONDS
        and reader["peak"] <= READER_MB
        and all(f["peak"] <= RANK_MB for f in others)
    )


def seconds_of_voc(folder: Path, image_set: str) -> float:
    train = schema.SplitConfig(annotations=(image_set,))
    config = schema.DatasetConfig(dataset="large", format="voc", data_dir=str(folder), train=train)
    began = time.perf_counter()
    read_dataset(config, "train")
    return time.perf_counter() - began


def evaluate(images: int) -> float:
    """Seconds for the metrics of random objects and 100 detections in each image, 60 of them near objects."""
    from pointdet.evaluation.metrics import measure

    rng = np.random.default_rng(0)
    records, found = [], []
    for index in range(images):
        count = int(rng.integers(1, 15))
        boxes, labels = _random_boxes(rng, count), rng.integers(CLASSES, size=count)
        near = rng.integers(count, size=60)
        detected = np.concatenate([boxes[near] + rng.normal(0, 8, (60, 4)), _random_boxes(rng, 40)])
        classes = np.concatenate([labels[near], rng.integers(CLASSES, size=40)])
        records.append(Record(index, "", HEIGHT, WIDTH, Annotation.of(boxes.tolist(), labels.tolist())))
        scores = rng.random(100).astype(np.float32)
        found.append(Detections(detected.astype(np.float32), classes, scores).best(100))
    names = tuple(f"class {number}" for number in range(CLASSES))
    began = time.perf_counter()
    measure(Dataset("large", records, names, tuple(range(1, CLASSES + 1))), found, "coco", rates=True)
    return time.perf_counter() - began


def _random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corners = rng.uniform(0, 400, (count, 2))
    return np.concatenate([corners, corners + rng.uniform(5, 200, (count, 2))], axis=1)


if __name__ == "__main__":
    raise SystemExit(main())
