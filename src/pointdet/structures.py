# SPDX-License-Identifier: Apache-2.0
"""The words of the house: Annotation, Record, Dataset, Sample, Detections.

Conventions, said once. Boxes are ``(N, 4) float32``, ``x1 y1 x2 y2``, absolute, in pixel coordinates whose integers
are pixel centres, so that an affine matrix moves an image (OpenCV) and its boxes alike. Labels are ``(N,) int64``,
0-based and contiguous; there is no background class. Images are ``(H, W, 3) uint8`` in OpenCV's order, BGR. Sizes are
``height, width``. A box variable carries its frame: ``boxes_image`` (pixels of the file), ``boxes_input`` (pixels of
the network's input), ``boxes_cells`` (cells of the heatmap).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pointdet.geometry import View

Array = npt.NDArray[np.generic]
Maps = dict[str, npt.NDArray[np.float32]]
Batch = dict[str, npt.NDArray[Any]]  # of the loader: "image" is uint8, everything else float32


@dataclass(frozen=True)
class Annotation:
    """The objects of one image. The holder says in which frame the boxes are."""

    boxes: npt.NDArray[np.float32]  # (N, 4)
    labels: npt.NDArray[np.int64]  # (N,)
    ignore: npt.NDArray[np.bool_]  # (N,) COCO crowd or VOC difficult: neither demanded nor punished by AP
    areas: npt.NDArray[np.float32]  # (N,) pixels^2 of the file; COCO's size classes use them

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, keep: Array) -> Annotation:
        """The objects chosen by a boolean mask or an index array."""
        return Annotation(self.boxes[keep], self.labels[keep], self.ignore[keep], self.areas[keep])

    @staticmethod
    def of(boxes: Sequence[Sequence[float]], labels: Sequence[int]) -> Annotation:
        """An annotation of plain lists; nothing is ignored, areas are the boxes' own."""
        array = np.asarray(boxes, np.float32).reshape(-1, 4)
        return Annotation(
            boxes=array,
            labels=np.asarray(labels, np.int64).reshape(-1),
            ignore=np.zeros(len(array), np.bool_),
            areas=np.asarray((array[:, 2] - array[:, 0]) * (array[:, 3] - array[:, 1]), np.float32),
        )


@dataclass(frozen=True)
class Record:
    """One image of a dataset as its annotation file describes it; nothing is read yet."""

    image_id: int
    image_path: str
    height: int
    width: int
    annotation: Annotation  # boxes_image


@dataclass(frozen=True)
class Dataset:
    """One split of a dataset."""

    name: str
    records: tuple[Record, ...]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # the file's own id of each label; detections are written with these

    def __len__(self) -> int:
        return len(self.records)


@dataclass(frozen=True)
class Sample:
    """One augmented image, ready for the network apart from its colour.

    The network sees ``colour[:, :3] @ pixel + colour[:, 3]`` with ``pixel`` = the BGR uint8 value: jitter, lighting
    and normalisation are all affine in the pixel, so they travel as one (C, 4) matrix and cost the device next to
    nothing. C is the number of input channels.
    """

    image: npt.NDArray[np.uint8]  # (H, W, 3)
    colour: npt.NDArray[np.float32]  # (C, 4)
    annotation: Annotation  # boxes_input
    view: View


@dataclass(frozen=True)
class Detections:
    """The objects found in one image, best first. The holder says in which frame the boxes are."""

    boxes: npt.NDArray[np.float32]  # (N, 4)
    labels: npt.NDArray[np.int64]  # (N,)
    scores: npt.NDArray[np.float32]  # (N,) in [0, 1]
    corner_scores: npt.NDArray[np.float32] | None = (
        None  # (N, 2) of a detector by corners: top left, bottom right
    )
    centres: Detections | None = None  # of a detector by triplets, to confirm boxes by: boxes without extent

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, keep: Array | slice) -> Detections:
        corner_scores = None if self.corner_scores is None else self.corner_scores[keep]
        return Detections(self.boxes[keep], self.labels[keep], self.scores[keep], corner_scores, self.centres)

    def to_image(self, view: View) -> Detections:
        """boxes_image, and centres alike, of boxes_input."""
        centres = None if self.centres is None else self.centres.to_image(view)
        return replace(self, boxes=view.boxes_to_image(self.boxes), centres=centres)

    def best(self, count: int) -> Detections:
        """The ``count`` detections of highest score, best first; equal scores keep their order."""
        return self[np.argsort(-self.scores, kind="stable")[:count]]

    @staticmethod
    def join(parts: Sequence[Detections]) -> Detections:
        """All detections of several lists, in the order given; with corner scores and centres where all parts have them."""
        corner_scores = [p.corner_scores for p in parts if p.corner_scores is not None]
        centres = [p.centres for p in parts if p.centres is not None]
        return Detections(
            np.concatenate([p.boxes for p in parts] or [np.zeros((0, 4), np.float32)]),
            np.concatenate([p.labels for p in parts] or [np.zeros(0, np.int64)]),
            np.concatenate([p.scores for p in parts] or [np.zeros(0, np.float32)]),
            np.concatenate(corner_scores) if parts and len(corner_scores) == len(parts) else None,
            Detections.join(centres) if parts and len(centres) == len(parts) else None,
        )


AtScales = Sequence[
    tuple[float, Detections]
]  # one image at each scale it is tested at, and what was found there
