# SPDX-License-Identifier: Apache-2.0
"""Flat lists of images and objects -> Dataset. Corrects, leaves out or refuses invalid entries."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from pointdet.arrays import BoolArray, Float64Array, Int64Array
from pointdet.data.images import ImageFault, read_size
from pointdet.data.record_table import RecordTable
from pointdet.errors import PointDetError, first_few
from pointdet.structures import Annotation, Dataset

logger = logging.getLogger("pointdet")

READING_THREADS = 16  # that read headers; they mostly wait for the storage
MAX_NAMED = 3  # files that a message names; the rest are counted
TOLERANCE = 1.0  # pixels that a box may extend beyond its image without a warning, because files round


@dataclass(frozen=True)
class ImageList:
    """All images of a split."""

    ids: Sequence[int]
    paths: Sequence[str]
    sizes: Int64Array  # (N, 2) height, width; 0 if the annotation file has no size


@dataclass(frozen=True)
class ObjectList:
    """All objects of a split."""

    images: Int64Array  # (M,) index in the ImageList
    boxes: Float64Array  # (M, 4) x1 y1 x2 y2, 0-based
    labels: Int64Array  # (M,)
    ignore: BoolArray  # (M,)
    areas: Float64Array  # (M,) pixels^2; NaN if the file has no area: the area of the box is used

    def __getitem__(self, keep: BoolArray | Int64Array) -> ObjectList:
        if keep.dtype == np.bool_ and keep.all():  # nearly always, and the copy takes a while
            return self
        return ObjectList(
            self.images[keep], self.boxes[keep], self.labels[keep], self.ignore[keep], self.areas[keep]
        )


def build_dataset(
    name: str, class_names: Sequence[str], category_ids: Sequence[int], images: ImageList, objects: ObjectList
) -> Dataset:
    """One Record per image; images and the objects of each image keep their order.

    Boxes without area and boxes outside their image are left out, and boxes that extend beyond it are
    clipped, each with a warning.

    Errors: PointDetError for images that are not on disk or whose size is unknown.
    """
    _require_on_disk(images.paths)
    images = replace(images, sizes=_complete_sizes(images))
    objects = _clean(images, objects)
    objects = objects[np.argsort(objects.images, kind="stable")]
    every = Annotation(
        boxes=objects.boxes.astype(np.float32),
        labels=objects.labels,
        ignore=objects.ignore,
        areas=objects.areas.astype(np.float32),
    )
    starts = np.searchsorted(objects.images, np.arange(len(images.paths) + 1))
    records = RecordTable.build(images.ids, images.paths, images.sizes, starts, every)
    return Dataset(name, records, tuple(class_names), tuple(category_ids))


def warn(count: int, what: str, paths: Sequence[str]) -> None:
    """Log the warning "`count` `what` (first: ...)" unless `count` is 0. `paths` may contain duplicates."""
    if count:
        logger.warning("%d %s (%s)", count, what, _first(paths))


def _first(paths: Sequence[str]) -> str:
    return f"first: {first_few(list(dict.fromkeys(paths)), MAX_NAMED)}"


def _require_on_disk(paths: Sequence[str]) -> None:
    # List each folder once: a check of every single file takes minutes on a network drive.
    names: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        folder, root, name = path.rpartition("/")  # os.path.split is slow
        names[folder or root].append(name)
    missing = []
    for folder, wanted in names.items():
        present = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        missing += [os.path.join(folder, name) for name in wanted if name not in present]
    if missing:
        raise PointDetError(
            f"{len(missing)} of {len(paths)} images are not on disk ({_first(missing)}); "
            "add the images to their folder or correct the paths in the dataset section"
        )


def _complete_sizes(images: ImageList) -> Int64Array:
    """(N, 2): the sizes; those missing in the annotation file are read from the image headers."""
    sizes = images.sizes.copy()
    unknown = np.flatnonzero((sizes <= 0).any(axis=1))
    if len(unknown):
        try:
            with ThreadPoolExecutor(READING_THREADS) as pool:
                sizes[unknown] = list(pool.map(read_size, _at(images, unknown)))
        except ImageFault as fault:  # the first in the order of the images
            raise PointDetError(
                f"{fault}, and its annotation has no size; remove or replace the image"
            ) from None
    warn(
        len(unknown),
        "images without a size in their annotation: the size is read from the image file",
        _at(images, unknown),
    )
    return sizes


def _clean(images: ImageList, objects: ObjectList) -> ObjectList:
    """The usable objects: boxes are clipped to the image, missing areas are filled in."""
    with np.errstate(invalid="ignore"):
        sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
        valid = np.isfinite(objects.boxes).all(axis=1) & (sides > 0).all(axis=1)
    empty = objects.images[~valid]
    warn(len(empty), "boxes without area are left out", _at(images, empty))
    objects = objects[valid]

    limits = images.sizes[objects.images][:, [1, 0, 1, 0]].astype(np.float64)
    clipped = np.clip(objects.boxes, 0.0, limits)
    inside = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    outside = objects.images[~inside]
    warn(len(outside), "boxes outside their image are left out", _at(images, outside))
    too_large = (np.abs(clipped - objects.boxes) > TOLERANCE).any(axis=1)
    reported = objects.images[inside & too_large]
    warn(len(reported), "boxes extend beyond their image and are clipped", _at(images, reported))
    boxes = np.where(too_large[:, None], clipped, objects.boxes)
    box_areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    areas = np.where(np.isnan(objects.areas), box_areas, objects.areas)
    return replace(objects, boxes=boxes, areas=areas)[inside]


def _at(images: ImageList, indices: Int64Array) -> list[str]:
    return [images.paths[index] for index in indices.tolist()]
