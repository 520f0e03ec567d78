# SPDX-License-Identifier: Apache-2.0
"""Checks a dataset for main.py --check-data: opens every image and counts every box."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pointdet.arrays import BoolArray
from pointdet.data.images import ImageFault, read_image
from pointdet.data.record_table import RecordTable
from pointdet.errors import first_few, visible
from pointdet.structures import Dataset, Record

SMALL, MEDIUM = 32**2, 96**2  # pixels^2, upper bounds of COCO's size classes
MAX_LISTED = 10  # unusable images in the printed report


@dataclass(frozen=True)
class ClassCounts:
    """Numbers of objects of one class."""

    name: str
    images: int  # with at least one object of the class
    objects: int
    ignored: int  # of the objects: crowd or difficult
    small: int
    medium: int
    large: int


@dataclass(frozen=True)
class Report:
    """Statistics and problems of a dataset. `str()` gives a table."""

    name: str
    images: int
    classes: tuple[ClassCounts, ...]
    sides: tuple[
        float, float, float
    ]  # pixels, square root of the box area: 1st percentile, median, 99th percentile
    most_objects: int  # in one image
    without_objects: int  # images
    duplicate_images: int  # records with the same file as an earlier record
    duplicate_objects: int  # with the same image, class and box as an earlier object
    faults: tuple[str, ...]  # one sentence for each unusable image

    def __str__(self) -> str:
        total = ClassCounts("all", self.images - self.without_objects, *self._sums())
        width = max(len(counts.name) for counts in (*self.classes, total))
        head = f"{'class':<{width}} {'images':>8} {'objects':>8} {'ignored':>8} {'small':>8} {'medium':>8} {'large':>8}"
        lines = [f"{self.name}: {self.images} images", "", head]
        for c in (*self.classes, total):
            numbers = (c.images, c.objects, c.ignored, c.small, c.medium, c.large)
            lines.append(f"{c.name:<{width}} " + " ".join(f"{number:>8}" for number in numbers))
        empty = [counts.name for counts in self.classes if counts.objects == 0]
        lines += [
            "",
            "box side (root of area), percentiles 1, 50, 99: {:.0f}, {:.0f}, {:.0f} pixels".format(
                *self.sides
            ),
            f"most objects in one image: {self.most_objects}",
            f"images without objects: {self.without_objects}",
            f"classes without objects: {', '.join(empty) or 'none'}",
            f"duplicate images: {self.duplicate_images}",
            f"duplicate objects: {self.duplicate_objects}",
            f"images that cannot be used: {len(self.faults)}",
        ]
        if self.faults:
            lines.append("  " + first_few(self.faults, MAX_LISTED, "\n  "))
        return "\n".join(lines)

    def _sums(self) -> tuple[int, int, int, int, int]:
        def total(field: str) -> int:
            return sum(getattr(counts, field) for counts in self.classes)

        return total("objects"), total("ignored"), total("small"), total("medium"), total("large")


def check_dataset(dataset: Dataset) -> Report:
    """The report on a dataset. Reads every image, on all cores."""
    records = RecordTable.of(dataset.records)
    every, counts = records.objects, np.diff(records.starts)
    labels, boxes, areas, ignore = every.labels, every.boxes, every.areas, every.ignore
    images = np.repeat(np.arange(len(dataset)), counts)
    sides = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1, dtype=np.float64))
    low, median, high = np.percentile(sides, (1, 50, 99)).tolist() if len(sides) else (0.0, 0.0, 0.0)

    def count(chosen: BoolArray, name: str) -> ClassCounts:
        area = areas[chosen]
        return ClassCounts(
            name=visible(name),
            images=len(np.unique(images[chosen])),
            objects=int(chosen.sum()),
            ignored=int(ignore[chosen].sum()),
            small=int((area < SMALL).sum()),
            medium=int(((area >= SMALL) & (area < MEDIUM)).sum()),
            large=int((area >= MEDIUM).sum()),
        )

    def fault_of(index: int) -> str | None:
        return _fault(records[index])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        faults = tuple(fault for fault in pool.map(fault_of, range(len(records))) if fault is not None)
    paths = Counter(map(records.path, range(len(records))))
    rows = np.column_stack([images, labels, boxes])
    return Report(
        name=dataset.name,
        images=len(dataset),
        classes=tuple(count(labels == label, name) for label, name in enumerate(dataset.class_names)),
        sides=(low, median, high),
        most_objects=int(counts.max()),
        without_objects=int((counts == 0).sum()),
        duplicate_images=len(dataset) - len(paths),
        duplicate_objects=len(rows) - len(np.unique(rows, axis=0)),
        faults=faults,
    )


def _fault(record: Record) -> str | None:
    try:
        read_image(record.image_path, record.height, record.width)
    except ImageFault as fault:
        return visible(str(fault))
    return None
