# SPDX-License-Identifier: Apache-2.0
"""Boxes <-> maps of CornerNet: a peak at two corners, their places in their cells, a tag that pairs them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pointdet.config.schema import CornerNet
from pointdet.detectors.heatmaps import draw_gaussian, gaussian_radius, peaks
from pointdet.structures import Annotation, Detections, Maps
from pointdet.suppression import SoftNms

CORNERS = ("top_left", "bottom_right")


class Corners(NamedTuple):
    """The corners of one kind found in an image, best first."""

    labels: npt.NDArray[np.int64]  # (K,)
    points: npt.NDArray[np.float32]  # (K, 2) x and y in cells
    tags: npt.NDArray[np.float32]  # (K,)
    scores: npt.NDArray[np.float32]  # (K,)


@dataclass(frozen=True)
class CornerNetCodec:
    """`encode` makes targets of boxes, `decode` makes detections of the network's maps; one undoes the other.

    Law and Deng, 2018, section 3. A map has ceil(side / 4) cells along a side of the input, and cell coordinates are
    input pixels x cells / side: exactly a quarter where the side is a multiple of 4, and 128 / 511 for the published
    511 x 511. Maps of another size belong to an input that is as much short of a multiple of 4 as the codec's.
    """

    num_classes: int
    height: int  # of the network's input; only encode asks, decode takes maps of any size
    width: int
    max_objects: int
    min_overlap: float
    top_k: int  # corners of each kind that are paired
    candidates: int  # pairs kept of an image at one scale, and as many of its mirror image
    tag_distance: float
    suppression: SoftNms
    stride: int = 4

    @staticmethod
    def of(detector: CornerNet, num_classes: int, height: int, width: int) -> CornerNetCodec:
        """The codec of a configuration; `height`, `width` are those of the network's input."""
        return CornerNetCodec(
            num_classes,
            height,
            width,
            detector.max_objects,
            detector.min_overlap,
            detector.top_k,
            detector.candidates,
            detector.tag_distance,
            SoftNms(
                detector.suppression, merge_exponent=detector.merge_exponent, published=detector.published
            ),
        )

    def target_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes, for one image, of the float32 arrays that `encode` fills.

        For each kind of corner: heatmap (C, h, w), positives (1,), the number of its cells that equal 1, and, with
        one row per object, offset (M, 2), x and y of the corner from that of its cell, index (M,) of that cell,
        y * w + x. mask (M,): 0 in rows without an object.
        """
        map_height, map_width = -(-self.height // self.stride), -(-self.width // self.stride)
        shapes: dict[str, tuple[int, ...]] = {"mask": (self.max_objects,)}
        for corner in CORNERS:
            shapes[f"{corner}_heatmap"] = (self.num_classes, map_height, map_width)
            shapes[f"{corner}_offset"] = (self.max_objects, 2)
            shapes[f"{corner}_index"] = (self.max_objects,)
            shapes[f"{corner}_positives"] = (1,)
        return shapes

    def encode(self, annotation: Annotation, targets: Maps) -> int:
        """Fills `targets` from boxes_input; returns how many visible objects exceeded `max_objects`.

        Boxes are cut to the input's pixels; one that then has no area is not visible and takes no row. The first
        `max_objects` of the others, in the annotation's order, are learned.
        """
        for target in targets.values():
            target.fill(0)
        map_height, map_width = targets["top_left_heatmap"].shape[1:]
        sides = np.array([self.width, self.height], np.float64)
        corners_input = np.clip(annotation.boxes.reshape(-1, 2, 2), 0, sides - 1)
        corners_cells = corners_input * ([map_width, map_height] / sides)
        sizes = corners_cells[:, 1] - corners_cells[:, 0]
        visible = np.flatnonzero((sizes > 0).all(axis=1))
        kept = visible[: self.max_objects]
        count, labels = len(kept), annotation.labels[kept]

        whole = np.ceil(sizes[kept])
        radii = gaussian_radius(whole[:, 1], whole[:, 0], self.min_overlap, "iou").astype(np.int64)
        for corner, points in zip(CORNERS, corners_cells[kept].swapaxes(0, 1), strict=True):
            cells = points.astype(np.int64)
            index = cells[:, 1] * map_width + cells[:, 0]
            heatmap = targets[f"{corner}_heatmap"]
            for label, (x, y), radius in zip(labels.tolist(), cells.tolist(), radii.tolist(), strict=True):
                draw_gaussian(heatmap[label], x, y, radius)
            targets[f"{corner}_offset"][:count] = points - cells
            targets[f"{corner}_index"][:count] = index
            targets[f"{corner}_positives"][0] = len(set(zip(labels.tolist(), index.tolist(), strict=True)))
        targets["mask"][:count] = 1
        return len(visible) - count

    def decode(self, maps: Maps, count: int, mirrored: Maps | None = None) -> Detections:
        """Candidates, boxes_input with corner scores, of an image and of its mirror image; `select` reads them.

        Of each kind of corner: heatmap (C, h, w), probabilities, tag (1, h, w), offset (2, h, w), x and y in cells.
        At least `count` where there are as many: of each image the best first, the mirror image's last.
        """
        own = self._pairs(maps, max(count, self.candidates))
        if mirrored is None:
            return own
        # Corners change their kind in a mirror, so maps cannot be averaged: boxes come back instead.
        others = self._pairs(mirrored, max(count, self.candidates))
        width = self._sides(mirrored)[0]
        last = width if self.suppression.published else width - 1
        left, right = last - others.boxes[:, 2], last - others.boxes[:, 0]
        boxes = np.stack([left, others.boxes[:, 1], right, others.boxes[:, 3]], axis=1)
        return Detections.join([own, replace(others, boxes=boxes)])

    def painted(self, targets: Maps) -> Maps:
        """The maps of a network that has learnt these targets; of corners in one cell the last one's tag stays."""
        rows = targets["mask"] > 0
        tags = np.arange(rows.sum()) * (1 + self.tag_distance)
        maps: Maps = {}
        for corner in CORNERS:
            heatmap = targets[f"{corner}_heatmap"]
            cells = targets[f"{corner}_index"][rows].astype(np.int64)
            ys, xs = np.unravel_index(cells, heatmap.shape[1:])
            maps[f"{corner}_heatmap"] = heatmap
            maps[f"{corner}_tag"] = np.zeros((1, *heatmap.shape[1:]), np.float32)
            maps[f"{corner}_tag"][0, ys, xs] = tags
            maps[f"{corner}_offset"] = np.zeros((2, *heatmap.shape[1:]), np.float32)
            maps[f"{corner}_offset"][:, ys, xs] = targets[f"{corner}_offset"][rows].T
        return maps

    def select(self, found: Detections, height: int, width: int, suppress: bool, count: int) -> Detections:
        """The `count` best after suppression, boxes_image cut to the image; it is always suppressed."""
        boxes = np.clip(found.boxes, 0, np.array([width, height] * 2, np.float32))
        return self.suppression(replace(found, boxes=boxes), count)

    def _pairs(self, maps: Maps, count: int) -> Detections:
        """The best pairs of corners that can be those of one object."""
        first, second = (self._corners(maps, corner) for corner in CORNERS)
        fit = first.labels[:, None] == second.labels
        fit &= np.abs(first.tags[:, None] - second.tags) <= self.tag_distance
        fit &= (first.points[:, None] <= second.points).all(axis=2)
        a, b = np.nonzero(fit)
        scores = (first.scores[a] + second.scores[b]) / 2
        best = np.argsort(-scores, kind="stable")[:count]
        a, b, scores = a[best], b[best], scores[best]
        map_height, map_width = maps["top_left_heatmap"].shape[1:]
        pixels = self._sides(maps) / [map_width, map_height]
        boxes = np.concatenate([first.points[a] * pixels, second.points[b] * pixels], axis=1)
        corner_scores = np.stack([first.scores[a], second.scores[b]], axis=1)
        return Detections(boxes.astype(np.float32), first.labels[a], scores, corner_scores)

    def _corners(self, maps: Maps, corner: str) -> Corners:
        """The peaks of a heatmap; a cell of probability 0 is none."""
        found = peaks(maps[f"{corner}_heatmap"], self.top_k)
        labels, ys, xs = (part[found[3] > 0] for part in found[:3])
        points = np.stack([xs, ys], axis=1) + maps[f"{corner}_offset"][:, ys, xs].T
        return Corners(
            labels, points.astype(np.float32), maps[f"{corner}_tag"][0, ys, xs], found[3][: len(xs)]
        )

    def _sides(self, maps: Maps) -> npt.NDArray[np.int64]:
        """Width and height of the input that these maps were made of."""
        map_height, map_width = maps["top_left_heatmap"].shape[1:]
        missing = np.array([-self.width, -self.height]) % self.stride
        return np.array([map_width, map_height]) * self.stride - missing
