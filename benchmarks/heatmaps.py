# SPDX-License-Identifier: Apache-2.0
"""Bytes and time of the heatmap targets on their way to the device: all planes, and only those with objects.

python benchmarks/heatmaps.py: batches of 32 images of 512 x 512, 80 classes, 7.7 objects of 3.5 classes per
image as in COCO (Lin et al., 2014, section 5), for the heatmaps of each detector. With --config and
--data_dir: the images, classes and objects of the train split of a dataset, without augmentation. Times are
the minimum of all repeats. On a GPU they include the transfer.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import machine
import nnabla as nn
import nnabla.functions as F
import numpy as np

from pointdet import runtime as runtimes
from pointdet.arrays import Batch
from pointdet.codec import Codec
from pointdet.config import load, schema
from pointdet.data.catalogue import read_dataset
from pointdet.detectors import catalogue
from pointdet.geometry import View
from pointdet.runtime import Runtime
from pointdet.structures import Annotation
from pointdet.training.heatmap_inputs import HeatmapInputs

DETECTORS: tuple[schema.CtDetConfig | schema.CornerDetectorConfig, ...] = (
    schema.CtDetConfig(),
    schema.CornerNetConfig(),
    schema.TripletConfig(),
)
CLASSES, MEAN_CLASSES, MEAN_OBJECTS = 80, 3.5, 7.7


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", help="a configuration with a dataset (default: random objects)")
    parser.add_argument("--data_dir", help="data folder of that dataset")
    parser.add_argument(
        "--size", type=int, default=512, help="height and width without --config (default: 512)"
    )
    parser.add_argument("--batch", type=int, default=32, help="images per batch (default: 32)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cudnn"), help="(default: cpu)")
    parser.add_argument(
        "--repeats", type=int, default=5, help="repeats, of which the fastest counts (default: 5)"
    )
    args = parser.parse_args()
    runtime = runtimes.start(args.device)
    if args.config:
        config = load.load(args.config, [f"dataset.data_dir={args.data_dir}"])
        classes, annotations = read(config)
    else:
        dataset = schema.DatasetConfig(dataset="random", format="coco")
        config = schema.Config(dataset=dataset, input=schema.InputConfig(height=args.size, width=args.size))
        classes, annotations = CLASSES, list(random_annotations(args.size, 10 * args.batch))
    present = np.mean([len(np.unique(annotation.labels)) for annotation in annotations])
    print(machine.describe())
    print(
        f"{len(annotations)} images for {config.input.height} x {config.input.width}, {present:.2f} of {classes} "
        f"classes per image; batches of {args.batch}; {runtime.device}\n"
    )
    print(f"{'':<11}{'all planes':>24}{'with objects':>24}{'bytes':>8}")
    print(f"{'':<11}{'kB/image':>12}{'ms/batch':>12}{'kB/image':>12}{'ms/batch':>12}{'ratio':>8}")
    for settings in DETECTORS:
        codec = catalogue.build(config.model_copy(update={"detector": settings}), classes).codec
        every, only = measure(codec, annotations, args.batch, args.repeats, runtime)
        name = type(settings).__name__.removesuffix("Config").lower()
        print(
            f"{name:<11}{every[0]:12.1f}{every[1]:12.2f}{only[0]:12.1f}{only[1]:12.2f}{every[0] / only[0]:8.1f}"
        )
    return 0


def read(config: schema.Config) -> tuple[int, list[Annotation]]:
    """The number of classes of the train split, and the objects of its images (boxes_input)."""
    dataset = read_dataset(config.dataset, "train")
    annotations = []
    for record in dataset.records:
        view = View.fit(record.height, record.width, config.input.height, config.input.width, 1.0)
        boxes = view.boxes_to_input(record.annotation.boxes)
        annotations.append(replace(record.annotation, boxes=boxes))
    return len(dataset.class_names), annotations


def random_annotations(size: int, count: int) -> Iterator[Annotation]:
    """Objects of random sizes at random places. Every image has at least one object of each of its classes."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        labels = rng.choice(CLASSES, min(CLASSES, 1 + rng.poisson(MEAN_CLASSES - 1)), replace=False)
        labels = np.append(labels, rng.choice(labels, rng.poisson(MEAN_OBJECTS - MEAN_CLASSES)))
        corners = rng.uniform(0, 0.7, (len(labels), 2)) * size
        boxes = np.concatenate([corners, corners + rng.uniform(0.02, 0.3, corners.shape) * size], axis=1)
        yield Annotation.of(boxes.tolist(), labels.tolist())


def measure(
    codec: Codec, annotations: list[Annotation], batch_size: int, repeats: int, runtime: Runtime
) -> tuple[tuple[float, float], tuple[float, float]]:
    """kB per image and milliseconds per batch: of all planes, and of those with objects."""
    shapes = codec.target_shapes()
    batch: Batch = {name: np.zeros((batch_size, *shape), np.float32) for name, shape in shapes.items()}
    variables = {name: nn.Variable(batch[name].shape) for name in codec.heatmaps}
    readers = [F.sum(F.slice(v, stop=(1, 1, 1, 1))) for v in variables.values()]
    inputs = HeatmapInputs(variables, runtime)

    def copy_all() -> None:
        for name, variable in variables.items():
            variable.data.cast(np.float32)[...] = batch[name]

    def seconds(fill: Callable[[], None]) -> float:
        start = time.perf_counter()
        fill()
        if not runtime.on_cpu:
            nn.forward_all(readers)  # waits for the device
            for reader in readers:
                reader.data.data  # noqa: B018
        return time.perf_counter() - start

    times: list[tuple[float, float]] = []
    planes = 0.0
    for start in range(0, len(annotations), batch_size):
        for row, annotation in enumerate(annotations[start : start + batch_size]):
            codec.encode(annotation, {name: batch[name][row] for name in shapes})
            planes += batch["present"][row].sum()
        runs = [(seconds(copy_all), seconds(lambda: inputs.fill(batch))) for _ in range(repeats)]
        times.append((min(a for a, _ in runs), min(b for _, b in runs)))
    every, only = (1e3 * float(np.mean(column)) for column in zip(*times, strict=True))
    plane = sum(4e-3 * shapes[name][1] * shapes[name][2] for name in codec.heatmaps)
    return (plane * shapes["present"][0], every), (plane * planes / len(annotations), only)


if __name__ == "__main__":
    raise SystemExit(main())
