# SPDX-License-Identifier: Apache-2.0
"""Gaussian peaks on heatmaps: how wide, how drawn, how found again. NumPy and OpenCV only."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_NEIGHBOURS = np.ones((3, 3), np.uint8)


def gaussian_radius(
    height: npt.ArrayLike, width: npt.ArrayLike, min_overlap: float, formula: Literal["published", "iou"]
) -> Floats:
    """Radius in cells, not yet rounded, of the Gaussian of a box of `height` x `width` cells.

    Scalars or arrays of one shape. "iou": a box whose two corners are off by at most the radius still
    overlaps the true box by `min_overlap` (CornerNet, Law and Deng, 2018, section 3.2). "published": what
    CenterNet was trained with; it misses a division, and is 3.3 times as large for a square and overlap 0.7.
    """
    height, width = np.asarray(height, np.float64), np.asarray(width, np.float64)
    around, area = height + width, height * width
    # The three ways to be off: both corners outwards, both inwards, both in the same direction.
    scaled, lost = min_overlap * around, (1 - min_overlap) * area
    outwards: Floats = np.sqrt(scaled**2 + 4 * min_overlap * lost) - scaled
    if formula == "published":
        return outwards  # without the division the two others are never smaller
    inwards: Floats = (around - np.sqrt(around**2 - 4 * lost)) / 4
    shifted: Floats = (around - np.sqrt(around**2 - 4 * lost / (1 + min_overlap))) / 2
    return np.minimum(np.minimum(outwards / (4 * min_overlap), inwards), shifted)


@lru_cache(maxsize=512)
def _gaussian(radius: int, deviations: int) -> npt.NDArray[np.float32]:
    """(2 radius + 1, 2 radius + 1), `deviations` standard deviations along a side, 1 in the middle; do not write."""
    distance = np.arange(-radius, radius + 1, dtype=np.float64)
    sigma = (2 * radius + 1) / deviations
    squares = distance[:, None] ** 2 + distance**2
    kernel: npt.NDArray[np.float32] = np.exp(-squares / (2 * sigma**2)).astype(np.float32)
    kernel.flags.writeable = False
    return kernel


def draw_gaussian(plane: npt.NDArray[np.float32], x: int, y: int, radius: int, deviations: int = 6) -> None:
    """Raises `plane` (h, w), in place, to a Gaussian with its peak, 1, at cell (x, y) of the plane.

    Nothing reaches further than `radius` along x or y, which are `deviations` standard deviations from end to end, and
    what leaves the plane is cut off. Where Gaussians meet the larger value stays.
    """
    height, width = plane.shape
    left, right = max(x - radius, 0), min(x + radius + 1, width)
    top, bottom = max(y - radius, 0), min(y + radius + 1, height)
    window = plane[top:bottom, left:right]
    whole = _gaussian(radius, deviations)
    inside = whole[top - y + radius : bottom - y + radius, left - x + radius : right - x + radius]
    np.maximum(window, inside, out=window)


def peaks(
    heatmap: npt.NDArray[np.float32], count: int
) -> tuple[Indices, Indices, Indices, npt.NDArray[np.float32]]:
    """The `count` highest peaks of a heatmap (C, h, w), over all classes together: labels, ys, xs, scores.

    A peak is a cell that none of its eight neighbours exceeds, so all cells of a plateau are peaks. Best
    first; equal scores come in the order of class, row, column. Fewer are returned where there are fewer.
    """
    values = np.empty(heatmap.shape, np.float32)  # of the peaks; 0 in all other cells
    is_peak = np.empty(heatmap.shape, np.bool_)
    for plane, value, peak in zip(heatmap, values, is_peak, strict=True):  # plane by plane, in the cache
        cv2.dilate(plane, _NEIGHBOURS, dst=value)
        np.equal(plane, value, out=peak)
        np.multiply(plane, peak, out=value)
    # The best class of each place: its `count` best are not yet the answer, but nothing below them is in it.
    best = values.max(axis=0).ravel()
    bound = np.partition(best, -count)[-count] if count < len(best) else 0
    cells = np.flatnonzero(values >= bound if bound > 0 else is_peak)
    scores = values.ravel()[cells]
    if len(cells) > count:
        # A partition does not say which of equal scores it takes: cut by value, then order the few left.
        enough = scores >= np.partition(scores, -count)[-count]
        cells, scores = cells[enough], scores[enough]
    order = np.argsort(-scores, kind="stable")[:count]
    labels, ys, xs = np.unravel_index(cells[order], heatmap.shape)
    return labels, ys, xs, scores[order]
