# SPDX-License-Identifier: Apache-2.0
"""The flat lists of one annotation file -> Dataset; what is wrong with them is mended or refused, and counted."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pointdet.data.images import ImageFault, read_size
from pointdet.errors import PointDetError
from pointdet.structures import Annotation, Dataset, Record

logger = logging.getLogger("pointdet")

NAMED = 3  # files named in a message; the rest is counted
TOLERANCE = 1.0  # pixels a box may stick out without a word: files round


@dataclass(frozen=True)
class ImageList:
    """All images of a split."""

    ids: Sequence[int]
    paths: Sequence[str]
    sizes: npt.NDArray[np.int64]  # (N, 2) height, width; 0 where the annotation file does not say


@dataclass(frozen=True)
class ObjectList:
    """All objects of a split."""

    images: npt.NDArray[np.int64]  # (M,) position in the ImageList
    boxes: npt.NDArray[np.float64]  # (M, 4) x1 y1 x2 y2, 0-based
    labels: npt.NDArray[np.int64]  # (M,)
    ignore: npt.NDArray[np.bool_]  # (M,)
    areas: npt.NDArray[np.float64]  # (M,) NaN where the file does not say: the box's own

    def __getitem__(self, keep: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> ObjectList:
        return ObjectList(
            self.images[keep], self.boxes[keep], self.labels[keep], self.ignore[keep], self.areas[keep]
        )


def build_dataset(
    name: str, class_names: Sequence[str], category_ids: Sequence[int], images: ImageList, objects: ObjectList
) -> Dataset:
    """One Record per image, in the order given; the objects of an image keep their order.

    Boxes without area or wholly outside are left out, boxes that stick out are cut, both with a warning.
    Errors: PointDetError for images that are not on disk, or whose size is nowhere to be found.
    """
    _require_on_disk(images.paths)
    images = replace(images, sizes=_complete_sizes(images))
    objects = _clean(images, objects)
    objects = objects[np.argsort(objects.images, kind="stable")]
    boxes, areas = objects.boxes.astype(np.float32), objects.areas.astype(np.float32)
    ends = np.searchsorted(objects.images, np.arange(len(images.paths)), side="right").tolist()
    sizes = images.sizes.tolist()
    records = []
    start = 0
    for image_id, path, (height, width), end in zip(images.ids, images.paths, sizes, ends, strict=True):
        here = slice(start, end)
        annotation = Annotation(boxes[here], objects.labels[here], objects.ignore[here], areas[here])
        records.append(Record(image_id, path, height, width, annotation))
        start = end
    return Dataset(name, tuple(records), tuple(class_names), tuple(category_ids))


def warn(count: int, what: str, paths: Sequence[str]) -> None:
    """Log `count what (first: ...)`, unless there are none; `paths` may repeat."""
    if count:
        logger.warning("%d %s (%s)", count, what, _first(paths))


def _first(paths: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(paths))
    more = ", ..." if len(distinct) > NAMED else ""
    return f"first: {', '.join(distinct[:NAMED])}{more}"


def _require_on_disk(paths: Sequence[str]) -> None:
    # A folder is listed once: asking for every file by itself takes minutes on a network drive.
    names: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        folder, name = os.path.split(path)
        names[folder].append(name)
    missing = []
    for folder, wanted in names.items():
        present = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        missing += [os.path.join(folder, name) for name in wanted if name not in present]
    if missing:
        raise PointDetError(
            f"{len(missing)} of {len(paths)} images are not on disk ({_first(missing)}); "
            "complete the image folder or mend the paths of the dataset section"
        )


def _complete_sizes(images: ImageList) -> npt.NDArray[np.int64]:
    """(N, 2): sizes that the annotation file lacks are read from the images' headers."""
    sizes = images.sizes.copy()
    unknown = np.flatnonzero((sizes <= 0).any(axis=1))
    for index in unknown:
        try:
            sizes[index] = read_size(images.paths[index])
        except ImageFault as fault:
            raise PointDetError(
                f"{fault}, and its annotation does not say its size; remove or mend it"
            ) from None
    warn(len(unknown), "images without a size in their annotation: read from the image", _at(images, unknown))
    return sizes


def _clean(images: ImageList, objects: ObjectList) -> ObjectList:
    """The objects that can be used; boxes within the image, areas complete."""
    with np.errstate(invalid="ignore"):
        sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
        solid = np.isfinite(objects.boxes).all(axis=1) & (sides > 0).all(axis=1)
    empty = objects.images[~solid]
    warn(len(empty), "boxes without area are left out", _at(images, empty))
    objects = objects[solid]

    limits = images.sizes[objects.images][:, [1, 0, 1, 0]].astype(np.float64)
    clipped = np.clip(objects.boxes, 0.0, limits)
    inside = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    outside = objects.images[~inside]
    warn(len(outside), "boxes outside their image are left out", _at(images, outside))
    sticks_out = (np.abs(clipped - objects.boxes) > TOLERANCE).any(axis=1)
    cut = objects.images[inside & sticks_out]
    warn(len(cut), "boxes stick out of their image and are cut", _at(images, cut))
    boxes = np.where(sticks_out[:, None], clipped, objects.boxes)
    own = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    areas = np.where(np.isnan(objects.areas), own, objects.areas)
    return replace(objects, boxes=boxes, areas=areas)[inside]


def _at(images: ImageList, indices: npt.NDArray[np.int64]) -> list[str]:
    return [images.paths[index] for index in indices.tolist()]
