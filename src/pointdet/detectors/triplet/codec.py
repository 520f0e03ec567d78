# SPDX-License-Identifier: Apache-2.0
"""Boxes <-> maps of keypoint triplets: CornerNet's corners, and a centre that confirms each pair of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pointdet.detectors.cornernet.codec import (
    CORNERS,
    CornerNetCodec,
    cut,
    draw_keypoints,
    painted_keypoints,
)
from pointdet.structures import Annotation, AtScales, Detections, Maps

KEYPOINTS = (*CORNERS, "centre")

LARGE = (
    150**2
)  # pixels^2 of the image: above it the central region is the middle fifth of each side, else the third
MARGIN = 5  # pixels of the scaled image: a box that leaves it by as many is none


@dataclass(frozen=True)
class TripletCodec:
    """`encode` makes targets of boxes, `decode` and `select` make detections of the network's maps.

    Duan et al., 2019, section 3.2. Everything about corners is `corners`' matter.
    """

    corners: CornerNetCodec

    def target_shapes(self) -> dict[str, tuple[int, ...]]:
        """As CornerNet's, with heatmap, offset, index and positives of the centre."""
        return self.corners.target_shapes() | self.corners.keypoint_shapes("centre")

    def encode(self, annotation: Annotation, targets: Maps) -> int:
        """Fills `targets` from boxes_input as CornerNet does; a centre's Gaussian is wider than a corner's."""
        objects = self.corners.draw_corners(annotation, targets)
        draw_keypoints(targets, "centre", objects.corners_cells.mean(axis=1), objects, deviations=5)
        return objects.left_out

    def decode(self, maps: Maps, count: int, mirrored: Maps | None = None) -> Detections:
        """CornerNet's candidates, boxes_input, and beside them the centres that `select` confirms them by."""
        centres = self._centres(maps)
        if mirrored is not None:
            others = self.corners.mirror(self._centres(mirrored), mirrored)
            centres = Detections.join([centres, others])
        return replace(self.corners.decode(maps, count, mirrored), centres=centres)

    def painted(self, targets: Maps) -> Maps:
        """The maps of a network that has learnt the targets of one image."""
        return self.corners.painted(targets) | painted_keypoints(targets, "centre")

    def select(self, parts: AtScales, size: tuple[int, int], soft_nms: bool, count: int) -> Detections:
        """The `count` best candidates that a centre confirms, after suppression, boxes_image cut to the image."""
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
        # Cut before they are confirmed: the central region is that of what can be seen.
        return suppression(_confirmed(cut(inside, size), centres), count)

    def _centres(self, maps: Maps) -> Detections:
        found = self.corners.keypoints(maps, "centre")
        return Detections(np.tile(found.points, 2), found.labels, found.scores)


def _inside(found: Detections, size: tuple[int, int], scale: float) -> Detections:
    """Without the boxes that leave the image by MARGIN pixels or more, counted at the scale they were found at."""
    margin, (height, width) = MARGIN / scale, size
    low, high = found.boxes[:, :2], found.boxes[:, 2:]
    keep = (low > -margin).all(axis=1) & (high < np.array([width, height]) + margin).all(axis=1)
    return found[keep]


def _confirmed(found: Detections, centres: Detections) -> Detections:
    """The boxes with a centre of their class in their central region, best first, with the mean score of the keypoints.

    Of several centres the first counts.
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


def _central_regions(boxes: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], ...]:
    """Upper left and lower right (N, 2) of the regions of boxes_image: section 3.2, equation 1."""
    low, high = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    n = np.where((high - low).prod(axis=1) > LARGE, 5, 3)[:, None]
    return ((n + 1) * low + (n - 1) * high) / (2 * n), ((n - 1) * low + (n + 1) * high) / (2 * n)
