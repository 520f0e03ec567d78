# SPDX-License-Identifier: Apache-2.0
"""Images and objects of several annotation files -> one list of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pointdet.data.records import ImageList, ObjectList, warn
from pointdet.errors import PointDetError

Part = tuple[Path, ImageList, ObjectList]  # an annotation file and what it contains


def join(parts: Sequence[Part]) -> tuple[ImageList, ObjectList]:
    """The images and objects of all files, in the order of the files.

    If an image id occurs in several files, the images are numbered from 1, with a warning. Errors: PointDetError
    if two files contain the same image.
    """
    if len(parts) == 1:
        return parts[0][1:]
    _require_different_images(parts)
    ids = [number for _, images, _ in parts for number in images.ids]
    if len(set(ids)) < len(ids):
        warn(
            len(ids) - len(set(ids)),
            "image ids occur in several annotation files: the images are numbered from 1, also in detections.json",
            [str(path) for path, _, _ in parts],
        )
        ids = list(range(1, len(ids) + 1))
    starts = np.cumsum([0, *(len(images.ids) for _, images, _ in parts)]).tolist()
    objects = [found for _, _, found in parts]
    return (
        ImageList(
            ids,
            [path for _, images, _ in parts for path in images.paths],
            np.concatenate([images.sizes for _, images, _ in parts]),
        ),
        ObjectList(
            np.concatenate([o.images + start for o, start in zip(objects, starts, strict=False)]),
            np.concatenate([o.boxes for o in objects]),
            np.concatenate([o.labels for o in objects]),
            np.concatenate([o.ignore for o in objects]),
            np.concatenate([o.areas for o in objects]),
        ),
    )


def _require_different_images(parts: Sequence[Part]) -> None:
    file_of: dict[str, Path] = {}
    for path, images, _ in parts:
        for image in images.paths:
            if file_of.setdefault(image, path) != path:
                raise PointDetError(
                    f"the image {image} is in both {file_of[image]} and {path}; remove it from one of them"
                )
