# SPDX-License-Identifier: Apache-2.0
"""Boxes <-> maps of keypoint triplets: CornerNet's corners, and centres that confirm pairs of corners."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pointdet.arrays import Float32Array, Float64Array, Maps
from pointdet.detectors.cornernet.codec import (
    CORNERS,
    CornerNetCodec,
    clip,
    draw_keypoints,
    keypoint_maps_from_targets,
)
from pointdet.structures import Annotation, AtScales, Detections

KEYPOINTS = (*CORNERS, "centre")

# pixels^2 of the image. The central region has 1/5 of each side of a larger box, 1/3 of a smaller one.
LARGE = 150**2
MARGIN = 5  # pixels of the scaled image: boxes that extend this far beyond it are dropped


@dataclass(frozen=True)
class TripletCodec:
    """`encode` converts boxes to targets, `decode` and `select` convert the network's maps to detections.

    Duan et al., 2019, section 3.2. `corners` is the codec of the corners.
    """

    corners: CornerNetCodec

    @property
    def heatmaps(self) -> tuple[str, ...]:
        """See `Encoder`."""
        return tuple(f"{kind}_heatmap" for kind in KEYPOINTS)

    def target_shapes(self) -> dict[str, tuple[int, ...]]:
        """Those of CornerNet, with heatmap, offset, index and positives of the centre."""
        return self.corners.target_shapes() | self.corners.keypoint_shapes("centre")

    def encode(self, annotation: Annotation, targets: Maps) -> int:
        """Like CornerNet's, with centres, whose Gaussians are wider than those of corners."""
        objects = self.corners.draw_corners(annotation, targets)
        draw_keypoints(targets, "centre", objects.corners_cells.mean(axis=1), objects, deviations=5)
        return objects.overflow

    def decode(self, maps: Maps, count: int, mirrored: Maps | None = None) -> Detections:
        """CornerNet's candidates (boxes_input), with the centres by which `select` confirms them."""
        centres = self._centres(maps)
        if mirrored is not None:
            others = self.corners.mirror(self._centres(mirrored), mirrored)
            centres = Detections.join([centres, others])
        return replace(self.corners.decode(maps, count, mirrored), centres=centres)

    def maps_from_targets(self, targets: Maps) -> Maps:
        """See `Codec`."""
        return self.corners.maps_from_targets(targets) | keypoint_maps_from_targets(targets, "centre")

    def select(self, parts: AtScales, size: tuple[int, int], soft_nms: bool, count: int) -> Detections:
        """See `Codec`. Boxes must be confirmed by a centre and are clipped to the image."""
        suppression = self.corners.suppression
        inside = Detections.join([_inside(found, size, scale) for scale, found in parts])
        centres = Detections.join(
            [
                found.centres
                for scale, found in parts
                if found.centres is not None and (scale == 1 or not suppression.published)
            ]
        )
        if not suppression.published:
            centres = centres.best(len(centres))
        # Boxes are clipped first: the central region is that of the visible part.
        return suppression(_confirmed(clip(inside, size), centres), count)

    def _centres(self, maps: Maps) -> Detections:
        found = self.corners.keypoints(maps, "centre")
        return Detections(np.tile(found.points, 2), found.labels, found.scores)


def _inside(found: Detections, size: tuple[int, int], scale: float) -> Detections:
    """Drop boxes that extend MARGIN pixels or more beyond the image at the scale of the detection."""
    margin, (height, width) = MARGIN / scale, size
    low, high = found.boxes[:, :2], found.boxes[:, 2:]
    keep = (low > -margin).all(axis=1) & (high < np.array([width, height]) + margin).all(axis=1)
    return found[keep]


def _confirmed(found: Detections, centres: Detections) -> Detections:
    """The boxes with a centre of their class in their central region, best first.

    The score is the mean of the three keypoints. If there are several centres, the first one is used.
    """
    first = np.full(len(found), -1)
    for label in np.unique(found.labels):
        rows, columns = np.flatnonzero(found.labels == label), np.flatnonzero(centres.labels == label)
        if len(columns) == 0:
            continue
        low, high = _central_regions(found.boxes[rows])
        points = centres.boxes[columns, :2]
        match = ((points > low[:, None]) & (points < high[:, None])).all(axis=2)
        first[rows] = np.where(match.any(axis=1), columns[match.argmax(axis=1)], -1)
    kept = found[first >= 0]
    scores = (2 * kept.scores + centres.scores[first[first >= 0]]) / 3
    return replace(kept, scores=scores.astype(np.float32), centres=None).best(len(kept))


def _central_regions(boxes: Float32Array) -> tuple[Float64Array, ...]:
    """Top left and bottom right (N, 2) of the central regions of boxes_image (section 3.2, equation 1)."""
    low, high = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    n = np.where((high - low).prod(axis=1) > LARGE, 5, 3)[:, None]
    return ((n + 1) * low + (n - 1) * high) / (2 * n), ((n - 1) * low + (n + 1) * high) / (2 * n)
