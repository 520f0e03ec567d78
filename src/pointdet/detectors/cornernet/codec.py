# SPDX-License-Identifier: Apache-2.0
"""Boxes <-> maps of CornerNet: a peak at two corners, their places in their cells, a tag that pairs them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pointdet.config.schema import CornerDetector
from pointdet.detectors.heatmaps import draw_gaussian, gaussian_radius, peaks
from pointdet.structures import Annotation, AtScales, Detections, Maps
from pointdet.suppression import SoftNms

CORNERS = ("top_left", "bottom_right")


class Keypoints(NamedTuple):
    """The keypoints of one kind found in an image, best first."""

    labels: npt.NDArray[np.int64]  # (K,)
    points: npt.NDArray[np.float32]  # (K, 2) x and y in pixels of the input
    scores: npt.NDArray[np.float32]  # (K,)
    cells: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]  # their rows and columns in the maps


class Objects(NamedTuple):
    """The objects of one image that are learnt."""

    labels: npt.NDArray[np.int64]  # (N,)
    corners_cells: npt.NDArray[np.float64]  # (N, 2, 2)
    radii: npt.NDArray[np.int64]  # (N,) of their Gaussians, in cells
    left_out: int  # how many more can be seen


def draw_keypoints(
    targets: Maps, kind: str, points: npt.NDArray[np.float64], objects: Objects, deviations: int = 6
) -> None:
    """Fill the targets of one kind of keypoint: `points` (N, 2) are those of the objects, x and y in cells."""
    labels, cells = objects.labels.tolist(), points.astype(np.int64)
    heatmap, count = targets[f"{kind}_heatmap"], len(labels)
    for label, (x, y), radius in zip(labels, cells.tolist(), objects.radii.tolist(), strict=True):
        draw_gaussian(heatmap[label], x, y, radius, deviations)
    index = cells[:, 1] * heatmap.shape[2] + cells[:, 0]
    targets[f"{kind}_offset"][:count] = points - cells
    targets[f"{kind}_index"][:count] = index
    targets[f"{kind}_positives"][0] = len(set(zip(labels, index.tolist(), strict=True)))


def painted_keypoints(targets: Maps, kind: str) -> Maps:
    """Heatmap and offset of one kind of keypoint of a network that has learnt these targets."""
    heatmap, rows = targets[f"{kind}_heatmap"], targets["mask"] > 0
    ys, xs = np.unravel_index(targets[f"{kind}_index"][rows].astype(np.int64), heatmap.shape[1:])
    offset = np.zeros((2, *heatmap.shape[1:]), np.float32)
    offset[:, ys, xs] = targets[f"{kind}_offset"][rows].T
    return {f"{kind}_heatmap": heatmap, f"{kind}_offset": offset}


def cut(found: Detections, size: tuple[int, int]) -> Detections:
    """The same with boxes_image cut to an image of that height and width."""
    boxes = np.clip(found.boxes, 0, np.array([size[1], size[0]] * 2, np.float32))
    return replace(found, boxes=boxes)


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
    radius: Literal["published", "iou"]
    min_overlap: float
    top_k: int  # corners of each kind that are paired
    candidates: int  # pairs kept of an image at one scale, and as many of its mirror image
    tag_distance: float
    suppression: SoftNms
    stride: int = 4

    @staticmethod
    def of(detector: CornerDetector, num_classes: int, height: int, width: int) -> CornerNetCodec:
        """The codec of a configuration; `height`, `width` are those of the network's input."""
        return CornerNetCodec(
            num_classes,
            height,
            width,
            detector.max_objects,
            detector.radius,
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
        shapes: dict[str, tuple[int, ...]] = {"mask": (self.max_objects,)}
        for corner in CORNERS:
            shapes |= self.keypoint_shapes(corner)
        return shapes

    def keypoint_shapes(self, kind: str) -> dict[str, tuple[int, ...]]:
        """The part of `target_shapes` that one kind of keypoint has."""
        map_height, map_width = -(-self.height // self.stride), -(-self.width // self.stride)
        return {
            f"{kind}_heatmap": (self.num_classes, map_height, map_width),
            f"{kind}_offset": (self.max_objects, 2),
            f"{kind}_index": (self.max_objects,),
            f"{kind}_positives": (1,),
        }

    def encode(self, annotation: Annotation, targets: Maps) -> int:
        """Fills `targets` from boxes_input; returns how many visible objects exceeded `max_objects`.

        Boxes are cut to the input's pixels; one that then has no area is not visible and takes no row. The first
        `max_objects` of the others, in the annotation's order, are learned.
        """
        return self.draw_corners(annotation, targets).left_out

    def draw_corners(self, annotation: Annotation, targets: Maps) -> Objects:
        """`encode`, and the objects that found a place in `targets`."""
        for target in targets.values():
            target.fill(0)
        objects = self._learnt(annotation, targets)
        for corner, points in zip(CORNERS, objects.corners_cells.swapaxes(0, 1), strict=True):
            draw_keypoints(targets, corner, points, objects)
        targets["mask"][: len(objects.labels)] = 1
        return objects

    def _learnt(self, annotation: Annotation, targets: Maps) -> Objects:
        map_height, map_width = targets["top_left_heatmap"].shape[1:]
        sides = np.array([self.width, self.height], np.float64)
        corners_input = np.clip(annotation.boxes.reshape(-1, 2, 2), 0, sides - 1)
        corners_cells = corners_input * ([map_width, map_height] / sides)
        sizes = corners_cells[:, 1] - corners_cells[:, 0]
        visible = np.flatnonzero((sizes > 0).all(axis=1))
        kept = visible[: self.max_objects]
        whole = np.ceil(sizes[kept])
        radii = gaussian_radius(whole[:, 1], whole[:, 0], self.min_overlap, self.radius).astype(np.int64)
        return Objects(annotation.labels[kept], corners_cells[kept], radii, len(visible) - len(kept))

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
        return Detections.join([own, self.mirror(others, mirrored)])

    def mirror(self, found: Detections, mirrored: Maps) -> Detections:
        """What was found in the maps of the mirror image as it lies in the image: boxes_input both."""
        width = self._sides(mirrored)[0]
        last = width if self.suppression.published else width - 1
        left, right = last - found.boxes[:, 2], last - found.boxes[:, 0]
        return replace(found, boxes=np.stack([left, found.boxes[:, 1], right, found.boxes[:, 3]], axis=1))

    def painted(self, targets: Maps) -> Maps:
        """The maps of a network that has learnt these targets; of corners in one cell the last one's tag stays."""
        rows = targets["mask"] > 0
        tags = np.arange(rows.sum()) * (1 + self.tag_distance)
        maps: Maps = {}
        for corner in CORNERS:
            maps |= painted_keypoints(targets, corner)
            shape = maps[f"{corner}_heatmap"].shape[1:]
            ys, xs = np.unravel_index(targets[f"{corner}_index"][rows].astype(np.int64), shape)
            maps[f"{corner}_tag"] = np.zeros((1, *shape), np.float32)
            maps[f"{corner}_tag"][0, ys, xs] = tags
        return maps

    def select(self, parts: AtScales, size: tuple[int, int], soft_nms: bool, count: int) -> Detections:
        """The `count` best after suppression, boxes_image cut to the image; it is always suppressed."""
        return self.suppression(cut(Detections.join([part for _, part in parts]), size), count)

    def keypoints(self, maps: Maps, kind: str) -> Keypoints:
        """The `top_k` peaks of a heatmap; a cell of probability 0 is none."""
        labels, ys, xs, scores = peaks(maps[f"{kind}_heatmap"], self.top_k)
        count = np.count_nonzero(scores > 0)
        labels, ys, xs, scores = labels[:count], ys[:count], xs[:count], scores[:count]
        points = (np.stack([xs, ys], axis=1) + maps[f"{kind}_offset"][:, ys, xs].T).astype(np.float32)
        map_height, map_width = maps[f"{kind}_heatmap"].shape[1:]
        pixels = (points * (self._sides(maps) / [map_width, map_height])).astype(np.float32)
        return Keypoints(labels, pixels, scores, (ys, xs))

    def _pairs(self, maps: Maps, count: int) -> Detections:
        """The best pairs of corners that can be those of one object."""
        first, second = (self.keypoints(maps, corner) for corner in CORNERS)
        tags = [maps[f"{c}_tag"][0][found.cells] for c, found in zip(CORNERS, (first, second), strict=True)]
        fit = first.labels[:, None] == second.labels
        fit &= np.abs(tags[0][:, None] - tags[1]) <= self.tag_distance
        fit &= (first.points[:, None] <= second.points).all(axis=2)
        a, b = np.nonzero(fit)
        scores = (first.scores[a] + second.scores[b]) / 2
        best = np.argsort(-scores, kind="stable")[:count]
        a, b, scores = a[best], b[best], scores[best]
        boxes = np.concatenate([first.points[a], second.points[b]], axis=1)
        corner_scores = np.stack([first.scores[a], second.scores[b]], axis=1)
        return Detections(boxes, first.labels[a], scores, corner_scores)

    def _sides(self, maps: Maps) -> npt.NDArray[np.int64]:
        """Width and height of the input that these maps were made of."""
        map_height, map_width = maps["top_left_heatmap"].shape[1:]
        missing = np.array([-self.width, -self.height]) % self.stride
        return np.array([map_width, map_height]) * self.stride - missing
