# SPDX-License-Identifier: Apache-2.0
"""The data structures of all packages: Annotation, Record, Dataset, Sample, Detections.

Boxes are ``(N, 4) float32``, ``x1 y1 x2 y2`` in absolute pixel coordinates. Integer coordinates are pixel
centres, so that one affine matrix moves an image (OpenCV) and its boxes. Labels are ``(N,) int64``, 0-based
and contiguous; there is no background class. Images are ``(H, W, 3) uint8`` in OpenCV's order, BGR. Sizes are
``height, width``. The name of a variable with boxes states its frame: ``boxes_image`` (pixels of the file),
``boxes_input`` (pixels of the network's input), ``boxes_cells`` (cells of the heatmap).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pointdet.arrays import AnyArray, BoolArray, Float32Array, Image, Int64Array
from pointdet.geometry import View


@dataclass(frozen=True)
class Annotation:
    """The objects of one image. The frame of the boxes is documented where an annotation is used."""

    boxes: Float32Array  # (N, 4)
    labels: Int64Array  # (N,)
    ignore: BoolArray  # (N,) COCO crowd or VOC difficult: ignored in AP
    areas: Float32Array  # (N,) pixels^2 of the file, for COCO's size classes

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, keep: AnyArray) -> Annotation:
        """The objects that a boolean mask or an index array selects."""
        return Annotation(self.boxes[keep], self.labels[keep], self.ignore[keep], self.areas[keep])

    @staticmethod
    def of(boxes: Sequence[Sequence[float]], labels: Sequence[int]) -> Annotation:
        """An annotation from lists. No object is ignored; the areas are those of the boxes."""
        array = np.asarray(boxes, np.float32).reshape(-1, 4)
        return Annotation(
            boxes=array,
            labels=np.asarray(labels, np.int64).reshape(-1),
            ignore=np.zeros(len(array), np.bool_),
            areas=np.asarray((array[:, 2] - array[:, 0]) * (array[:, 3] - array[:, 1]), np.float32),
        )


@dataclass(frozen=True)
class Record:
    """One image of a dataset as described in the annotation file. The image itself is not read."""

    image_id: int
    image_path: str
    height: int
    width: int
    annotation: Annotation  # boxes_image


@dataclass(frozen=True)
class Dataset:
    """One split of a dataset."""

    name: str
    records: Sequence[Record]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # id of each label in annotation files and files of detections

    def __len__(self) -> int:
        return len(self.records)


@dataclass(frozen=True)
class Sample:
    """One augmented image whose colour augmentation is not yet applied.

    The network computes ``colour[:, :3] @ pixel + colour[:, 3]``, where ``pixel`` is the BGR uint8 value.
    Jitter, lighting and normalisation are affine in the pixel, so that one (C, 4) matrix holds them and the
    device applies them at almost no cost. C is the number of input channels.
    """

    image: Image  # (H, W, 3)
    colour: Float32Array  # (C, 4)
    annotation: Annotation  # boxes_input


@dataclass(frozen=True)
class Detections:
    """The detected objects of one image, best first. The frame of the boxes is documented at each use."""

    boxes: Float32Array  # (N, 4)
    labels: Int64Array  # (N,)
    scores: Float32Array  # (N,) in [0, 1]
    corner_scores: Float32Array | None = None  # (N, 2) top left, bottom right; corner detectors only
    centres: Detections | None = None  # keypoints as boxes of size 0; keypoint triplets only

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, keep: AnyArray | slice) -> Detections:
        corner_scores = None if self.corner_scores is None else self.corner_scores[keep]
        return Detections(self.boxes[keep], self.labels[keep], self.scores[keep], corner_scores, self.centres)

    def to_image(self, view: View) -> Detections:
        """Convert boxes_input to boxes_image, also those of the centres."""
        centres = None if self.centres is None else self.centres.to_image(view)
        return replace(self, boxes=view.boxes_to_image(self.boxes), centres=centres)

    def best(self, count: int) -> Detections:
        """The ``count`` detections with the highest scores, best first. Equal scores keep their order."""
        return self[np.argsort(-self.scores, kind="stable")[:count]]

    @staticmethod
    def join(parts: Sequence[Detections]) -> Detections:
        """Concatenate detections. The result has corner scores and centres if all parts have them."""
        corner_scores = [p.corner_scores for p in parts if p.corner_scores is not None]
        centres = [p.centres for p in parts if p.centres is not None]
        return Detections(
            np.concatenate([p.boxes for p in parts] or [np.zeros((0, 4), np.float32)]),
            np.concatenate([p.labels for p in parts] or [np.zeros(0, np.int64)]),
            np.concatenate([p.scores for p in parts] or [np.zeros(0, np.float32)]),
            np.concatenate(corner_scores) if parts and len(corner_scores) == len(parts) else None,
            Detections.join(centres) if parts and len(centres) == len(parts) else None,
        )


AtScales = Sequence[tuple[float, Detections]]  # one image: each test scale with its detections
