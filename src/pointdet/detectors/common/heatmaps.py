# SPDX-License-Identifier: Apache-2.0
"""Gaussian peaks on heatmaps: radius, drawing and detection. NumPy and OpenCV only."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from pointdet.arrays import Float32Array, Float64Array, Int64Array


def gaussian_radius(
    height: npt.ArrayLike, width: npt.ArrayLike, min_overlap: float, formula: Literal["published", "iou"]
) -> Float64Array:
    """Radius in cells, not rounded, of the Gaussian of a box of `height` x `width` cells.

    Scalars or arrays of one shape. "iou": a box whose two corners are displaced by at most the radius has an
    IoU of at least `min_overlap` with the true box (CornerNet, Law and Deng, 2018, section 3.2). "published":
    the formula of the published CenterNet code. A division is missing in it; for a square and overlap 0.7 it
    is 3.3 times as large.
    """
    height, width = np.asarray(height, np.float64), np.asarray(width, np.float64)
    around, area = height + width, height * width
    # Three cases: both corners are displaced outwards, both inwards, or both in the same direction.
    scaled, lost = min_overlap * around, (1 - min_overlap) * area
    outwards: Float64Array = np.sqrt(scaled**2 + 4 * min_overlap * lost) - scaled
    if formula == "published":
        return outwards  # without the division the other two are never smaller
    inwards: Float64Array = (around - np.sqrt(around**2 - 4 * lost)) / 4
    shifted: Float64Array = (around - np.sqrt(around**2 - 4 * lost / (1 + min_overlap))) / 2
    return np.minimum(np.minimum(outwards / (4 * min_overlap), inwards), shifted)


@lru_cache(maxsize=512)
def _gaussian(radius: int, deviations: int) -> Float32Array:
    """Read-only (2 radius + 1, 2 radius + 1), with `deviations` standard deviations along a side."""
    distance = np.arange(-radius, radius + 1, dtype=np.float64)
    sigma = (2 * radius + 1) / deviations
    squares = distance[:, None] ** 2 + distance**2
    kernel: Float32Array = np.exp(-squares / (2 * sigma**2)).astype(np.float32)
    kernel.flags.writeable = False
    return kernel


def draw_gaussian(plane: Float32Array, x: int, y: int, radius: int, deviations: int = 6) -> None:
    """Draw a Gaussian with its peak, 1, at cell (x, y) into `plane` (h, w), in place.

    The Gaussian is a square of side 2 radius + 1, which is `deviations` standard deviations, cut at the
    borders of the plane. Where Gaussians overlap, the larger value is kept.
    """
    height, width = plane.shape
    left, right = max(x - radius, 0), min(x + radius + 1, width)
    top, bottom = max(y - radius, 0), min(y + radius + 1, height)
    window = plane[top:bottom, left:right]
    whole = _gaussian(radius, deviations)
    inside = whole[top - y + radius : bottom - y + radius, left - x + radius : right - x + radius]
    np.maximum(window, inside, out=window)


def peaks(
    heatmap: Float32Array, count: int, window: int = 3
) -> tuple[Int64Array, Int64Array, Int64Array, Float32Array]:
    """The `count` highest peaks of a heatmap (C, h, w) over all classes: labels, ys, xs, scores.

    A peak is a cell that is not smaller than any other cell of the window around it, of `window` x `window`
    cells, so all cells of a plateau are peaks. The best is first; equal scores are in the order of class, row, column. If there are fewer peaks,
    all are returned.
    """
    neighbours = np.ones((window, window), np.uint8)
    values = np.empty(heatmap.shape, np.float32)  # of the peaks; 0 in all other cells
    is_peak = np.empty(heatmap.shape, np.bool_)
    for plane, value, peak in zip(heatmap, values, is_peak, strict=True):  # plane by plane, in the cache
        cv2.dilate(plane, neighbours, dst=value)
        np.equal(plane, value, out=peak)
        np.multiply(plane, peak, out=value)
    # The `count`-th highest maximum over classes is a lower bound of the scores of the `count` best peaks.
    best = values.max(axis=0).ravel()
    bound = np.partition(best, -count)[-count] if count < len(best) else 0
    cells = np.flatnonzero(values >= bound if bound > 0 else is_peak)
    scores = values.ravel()[cells]
    if len(cells) > count:
        # A partition selects equal scores in an undefined order: select by value, then sort the rest.
        enough = scores >= np.partition(scores, -count)[-count]
        cells, scores = cells[enough], scores[enough]
    order = np.argsort(-scores, kind="stable")[:count]
    labels, ys, xs = np.unravel_index(cells[order], heatmap.shape)
    return labels, ys, xs, scores[order]
