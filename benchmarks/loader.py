# SPDX-License-Identifier: Apache-2.0
"""The time of a training sample compared with reading its JPEG file, and the images per second of the loader.

python benchmarks/loader.py: 640 x 480 JPEG files, input 512 x 512, targets of 80 classes, one core. Times are
the minimum of all repeats. The bound for a sample is 2 x cv2.imread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from pointdet.arrays import Batch
from pointdet.config import schema
from pointdet.data.augment import Augmenter
from pointdet.data.batch_builder import BatchBuilder
from pointdet.data.images import read_image
from pointdet.data.loader import Loader
from pointdet.data.record_table import RecordTable
from pointdet.data.sampler import sample_rng
from pointdet.data.shapes import draw_picture
from pointdet.detectors.ctdet.codec import CtDetCodec
from pointdet.structures import Annotation, Dataset, Record

BOUND = 2.0
HEIGHT, WIDTH, CLASSES, OBJECTS = 480, 640, 80, 8
BATCH = 32


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--repeats", type=int, default=10, help="repeats, of which the fastest counts (default: 10)"
    )
    parser.add_argument("--images", type=int, default=96, help="number of images (default: 96)")
    parser.add_argument(
        "--workers", type=int, nargs="*", default=[1, 2], help="numbers of loader processes (default: 1 2)"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_dataset(Path(folder), args.images)
        augmenter = Augmenter(schema.AugmentConfig(), schema.InputConfig())
        codec = CtDetCodec.of(schema.CtDetConfig(), CLASSES, augmenter.input.height, augmenter.input.width)
        ratio = measure_sample(dataset, augmenter, codec, args.repeats)
        for workers in args.workers:
            measure_loader(dataset, augmenter, codec, workers)
    return 0 if ratio <= BOUND else 1


def write_dataset(folder: Path, count: int) -> Dataset:
    """Write random images. Image size, file size (about 150 kB) and boxes per image are similar to COCO's."""
    records = []
    for index in range(count):
        rng = np.random.default_rng(index)
        path = str(folder / f"{index}.jpg")
        cv2.imwrite(path, draw_picture(rng, HEIGHT, WIDTH)[0], [cv2.IMWRITE_JPEG_QUALITY, 92])
        corners = rng.uniform(0, 0.7, (OBJECTS, 2)) * (WIDTH, HEIGHT)
        boxes = np.concatenate([corners, corners + rng.uniform(8, 200, (OBJECTS, 2))], axis=1)
        annotation = Annotation.of(boxes.tolist(), rng.integers(CLASSES, size=OBJECTS).tolist())
        records.append(Record(index, path, HEIGHT, WIDTH, annotation))
    kilobytes = np.mean([Path(record.image_path).stat().st_size for record in records]) / 1000
    print(f"{count} images of {WIDTH} x {HEIGHT}, {kilobytes:.0f} kB on average, {OBJECTS} objects each")
    return Dataset("benchmark", tuple(records), tuple(map(str, range(CLASSES))), tuple(range(CLASSES)))


def measure_sample(dataset: Dataset, augmenter: Augmenter, codec: CtDetCodec, repeats: int) -> float:
    """Print the times of a sample and its parts. Returns the ratio of a sample to cv2.imread."""
    cv2.setNumThreads(1)
    records = RecordTable.of(dataset.records)
    builder = BatchBuilder(records, augmenter, codec, seed=0, drop_ignored=True)
    paths = [record.image_path for record in records]
    images = [read_image(path) for path in paths]
    views = [augmenter.random_view(HEIGHT, WIDTH, sample_rng(0, 0, index)) for index in range(len(paths))]
    out = np.zeros((augmenter.input.height, augmenter.input.width, 3), np.uint8)
    targets = {name: np.zeros(shape, np.float32) for name, shape in codec.target_shapes().items()}
    annotations = [
        augmenter.sample(images[i], records.annotation(i), views[i], sample_rng(0, 0, i)).annotation
        for i in range(len(paths))
    ]
    row: Batch = {"image": out, "colour": np.zeros((3, 4), np.float32), **targets}
    batch = {name: array[None] for name, array in row.items()}
    parts: dict[str, Callable[[int], object]] = {
        "cv2.imread": lambda i: cv2.imread(paths[i]),
        "whole sample": lambda i: builder.fill(batch, [0], 0, [i]),
        "  read_image": lambda i: read_image(paths[i], HEIGHT, WIDTH),
        "  warp": lambda i: views[i].warp(images[i], out),
        "  augment (with warp)": lambda i: augmenter.sample(
            images[i], records.annotation(i), views[i], sample_rng(0, 0, i), out
        ),
        "  codec.encode": lambda i: codec.encode(annotations[i], targets),
    }
    # The parts alternate, so that other load on the machine affects all of them.
    best = {name: np.full(len(paths), np.inf) for name in parts}
    for _ in range(repeats):
        for index in range(len(paths)):
            for name, part in parts.items():
                start = time.perf_counter()
                part(index)
                best[name][index] = min(best[name][index], time.perf_counter() - start)
    means = {name: float(times.mean()) for name, times in best.items()}
    for name, seconds in means.items():
        print(f"{name:<24} {seconds * 1e3:6.2f} ms  {seconds / means['cv2.imread']:5.2f} x imread")
    ratio = means["whole sample"] / means["cv2.imread"]
    print(f"sample / imread = {ratio:.2f} (bound {BOUND})")
    return ratio


def measure_loader(dataset: Dataset, augmenter: Augmenter, codec: CtDetCodec, workers: int) -> None:
    """Print the images per second of the loader."""
    with Loader(dataset, augmenter, codec, min(BATCH, len(dataset)), seed=0, workers=workers) as loader:
        best = np.inf
        for epoch in range(4):  # the first one starts the processes
            start = time.perf_counter()
            images = sum(len(batch["image"]) for batch in loader.epoch(epoch))
            best = min(best, (time.perf_counter() - start) / images)
    print(f"{workers} worker(s): {1 / best:.0f} images/s")


if __name__ == "__main__":
    raise SystemExit(main())
