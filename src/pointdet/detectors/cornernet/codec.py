# SPDX-License-Identifier: Apache-2.0
"""Boxes <-> maps of CornerNet: heatmaps of two corners, their offsets in their cells, tags that pair them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from pointdet.arrays import Float32Array, Float64Array, Int64Array, Maps
from pointdet.config.schema import CornerDetectorConfig
from pointdet.detectors.common.heatmaps import draw_gaussian, gaussian_radius, peaks
from pointdet.structures import Annotation, AtScales, Detections
from pointdet.suppression import SoftNms

CORNERS = ("top_left", "bottom_right")


class Keypoints(NamedTuple):
    """The detected keypoints of one kind in an image, best first."""

    labels: Int64Array  # (K,)
    points: Float32Array  # (K, 2) x and y in pixels of the input
    scores: Float32Array  # (K,)
    cells: tuple[Int64Array, Int64Array]  # their rows and columns in the maps


class Objects(NamedTuple):
    """The objects of one image that are encoded as targets."""

    labels: Int64Array  # (N,)
    corners_cells: Float64Array  # (N, 2, 2)
    radii: Int64Array  # (N,) of their Gaussians, in cells
    overflow: int  # number of visible objects beyond `max_objects`


def draw_keypoints(
    targets: Maps, kind: str, points: Float64Array, objects: Objects, deviations: int = 6
) -> None:
    """Fill the targets of one kind of keypoint. points: (N, 2), x and y in cells, one for each object."""
    labels, cells = objects.labels.tolist(), points.astype(np.int64)
    heatmap, count = targets[f"{kind}_heatmap"], len(labels)
    for label, (x, y), radius in zip(labels, cells.tolist(), objects.radii.tolist(), strict=True):
        draw_gaussian(heatmap[label], x, y, radius, deviations)
    index = cells[:, 1] * heatmap.shape[2] + cells[:, 0]
    targets[f"{kind}_offset"][:count] = points - cells
    targets[f"{kind}_index"][:count] = index
    targets[f"{kind}_positives"][0] = len(set(zip(labels, index.tolist(), strict=True)))


def keypoint_maps_from_targets(targets: Maps, kind: str) -> Maps:
    """Heatmap and offset of one kind of keypoint, of a network that predicts the targets exactly."""
    heatmap, rows = targets[f"{kind}_heatmap"], targets["mask"] > 0
    ys, xs = np.unravel_index(targets[f"{kind}_index"][rows].astype(np.int64), heatmap.shape[1:])
    offset = np.zeros((2, *heatmap.shape[1:]), np.float32)
    offset[:, ys, xs] = targets[f"{kind}_offset"][rows].T
    return {f"{kind}_heatmap": heatmap, f"{kind}_offset": offset}


def clip(found: Detections, size: tuple[int, int]) -> Detections:
    """Clip boxes_image to an image of size (height, width)."""
    boxes = np.clip(found.boxes, 0, np.array([size[1], size[0]] * 2, np.float32))
    return replace(found, boxes=boxes)


@dataclass(frozen=True)
class CornerNetCodec:
    """`encode` converts boxes to targets; `decode`, its inverse, converts the network's maps to detections.

    Law and Deng, 2018, section 3. A map has ceil(side / 4) cells along a side of the input. Cell coordinates
    are input pixels * cells / side. The factor is 1 / 4 if the side is a multiple of 4, and 128 / 511 for the
    published 511 x 511. `decode` takes maps of any size. Their input is assumed to differ from a multiple of
    4 by as much as the codec's.
    """

    num_classes: int
    height: int  # of the network's input in training
    width: int
    max_objects: int
    radius: Literal["published", "iou"]
    min_overlap: float
    top_k: int  # corners of each kind that are paired
    candidates: int  # pairs kept for an image at one scale, and the same number for its mirror image
    tag_distance: float
    window: int  # side of the window in which a peak is the highest cell
    suppression: SoftNms
    stride: int = 4

    @staticmethod
    def of(detector: CornerDetectorConfig, num_classes: int, height: int, width: int) -> CornerNetCodec:
        """The codec of a configuration. height, width: of the network's input in training."""
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
            detector.nms_kernel,
            SoftNms.of(detector, detector.merge_exponent, detector.published),
        )

    @property
    def heatmaps(self) -> tuple[str, ...]:
        """See `Encoder`."""
        return tuple(f"{corner}_heatmap" for corner in CORNERS)

    def target_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes, for one image, of the float32 arrays that `encode` fills.

        For each kind of corner: heatmap (C, h, w); positives (1,), the number of its cells that equal 1; and
        with one row per object offset (M, 2), x and y of the corner relative to the top left of its cell, and
        index (M,) of that cell, y * w + x. mask (M,): 0 in rows without an object. present (C,): 1 for the
        classes of the objects.
        """
        shapes: dict[str, tuple[int, ...]] = {"mask": (self.max_objects,), "present": (self.num_classes,)}
        for corner in CORNERS:
            shapes |= self.keypoint_shapes(corner)
        return shapes

    def keypoint_shapes(self, kind: str) -> dict[str, tuple[int, ...]]:
        """The part of `target_shapes` for one kind of keypoint."""
        map_height, map_width = -(-self.height // self.stride), -(-self.width // self.stride)
        return {
            f"{kind}_heatmap": (self.num_classes, map_height, map_width),
            f"{kind}_offset": (self.max_objects, 2),
            f"{kind}_index": (self.max_objects,),
            f"{kind}_positives": (1,),
        }

    def encode(self, annotation: Annotation, targets: Maps) -> int:
        """Fill `targets` from boxes_input. Returns the number of visible objects beyond `max_objects`.

        Boxes are clipped to the input's pixels. An object without area is then not visible and has no row.
        The first `max_objects` visible objects, in the annotation's order, are encoded.
        """
        return self.draw_corners(annotation, targets).overflow

    def draw_corners(self, annotation: Annotation, targets: Maps) -> Objects:
        """`encode`, but returns the encoded objects."""
        for target in targets.values():
            target.fill(0)
        objects = self._visible_objects(annotation, targets)
        for corner, points in zip(CORNERS, objects.corners_cells.swapaxes(0, 1), strict=True):
            draw_keypoints(targets, corner, points, objects)
        targets["mask"][: len(objects.labels)] = 1
        targets["present"][objects.labels] = 1
        return objects

    def _visible_objects(self, annotation: Annotation, targets: Maps) -> Objects:
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
        """Candidates for `select`: boxes_input with corner scores, of an image and of its mirror image.

        maps, for each kind of corner: heatmap (C, h, w), probabilities; tag (1, h, w); offset (2, h, w), x
        and y in cells. At least `count` candidates per image are returned, if there are as many, best first;
        those of the mirror image follow those of the image.
        """
        own = self._pairs(maps, max(count, self.candidates))
        if mirrored is None:
            return own
        # The kinds of corners change in a mirror image, so the boxes are mirrored instead of the maps.
        others = self._pairs(mirrored, max(count, self.candidates))
        return Detections.join([own, self.mirror(others, mirrored)])

    def mirror(self, found: Detections, mirrored: Maps) -> Detections:
        """Convert detections (boxes_input) in the mirror image to detections in the image."""
        width = self._sides(mirrored)[0]
        last = width if self.suppression.published else width - 1
        left, right = last - found.boxes[:, 2], last - found.boxes[:, 0]
        return replace(found, boxes=np.stack([left, found.boxes[:, 1], right, found.boxes[:, 3]], axis=1))

    def maps_from_targets(self, targets: Maps) -> Maps:
        """See `Codec`. If several corners share a cell, the last one's tag is kept."""
        rows = targets["mask"] > 0
        tags = np.arange(rows.sum()) * (1 + self.tag_distance)
        maps: Maps = {}
        for corner in CORNERS:
            maps |= keypoint_maps_from_targets(targets, corner)
            shape = maps[f"{corner}_heatmap"].shape[1:]
            ys, xs = np.unravel_index(targets[f"{corner}_index"][rows].astype(np.int64), shape)
            maps[f"{corner}_tag"] = np.zeros((1, *shape), np.float32)
            maps[f"{corner}_tag"][0, ys, xs] = tags
        return maps

    def select(self, parts: AtScales, size: tuple[int, int], soft_nms: bool, count: int) -> Detections:
        """See `Codec`. Boxes are clipped to the image. Suppression is always applied."""
        return self.suppression(clip(Detections.join([part for _, part in parts]), size), count)

    def keypoints(self, maps: Maps, kind: str) -> Keypoints:
        """The `top_k` highest peaks of a heatmap with probabilities above 0."""
        labels, ys, xs, scores = peaks(maps[f"{kind}_heatmap"], self.top_k, self.window)
        count = np.count_nonzero(scores > 0)
        labels, ys, xs, scores = labels[:count], ys[:count], xs[:count], scores[:count]
        points = (np.stack([xs, ys], axis=1) + maps[f"{kind}_offset"][:, ys, xs].T).astype(np.float32)
        map_height, map_width = maps[f"{kind}_heatmap"].shape[1:]
        pixels = (points * (self._sides(maps) / [map_width, map_height])).astype(np.float32)
        return Keypoints(labels, pixels, scores, (ys, xs))

    def _pairs(self, maps: Maps, count: int) -> Detections:
        """The `count` best pairs of corners with one class, similar tags and a box of size >= 0."""
        first, second = (self.keypoints(maps, corner) for corner in CORNERS)
        tags = [maps[f"{c}_tag"][0][found.cells] for c, found in zip(CORNERS, (first, second), strict=True)]
        match = first.labels[:, None] == second.labels
        match &= np.abs(tags[0][:, None] - tags[1]) <= self.tag_distance
        match &= (first.points[:, None] <= second.points).all(axis=2)
        a, b = np.nonzero(match)
        scores = (first.scores[a] + second.scores[b]) / 2
        best = np.argsort(-scores, kind="stable")[:count]
        a, b, scores = a[best], b[best], scores[best]
        boxes = np.concatenate([first.points[a], second.points[b]], axis=1)
        corner_scores = np.stack([first.scores[a], second.scores[b]], axis=1)
        return Detections(boxes, first.labels[a], scores, corner_scores)

    def _sides(self, maps: Maps) -> Int64Array:
        """Width and height of the input of these maps."""
        map_height, map_width = maps["top_left_heatmap"].shape[1:]
        missing = np.array([-self.width, -self.height]) % self.stride
        return np.array([map_width, map_height]) * self.stride - missing
