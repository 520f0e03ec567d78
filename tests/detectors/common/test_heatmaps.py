# SPDX-License-Identifier: Apache-2.0
"""Gaussian radius, drawing and peaks against golden arrays, loops and the definition of the radius."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from pointdet.detectors.common.heatmaps import draw_gaussian, gaussian_radius, peaks

GOLDEN = np.load(Path(__file__).parents[2] / "golden/heatmaps.npz")


@pytest.mark.parametrize("formula", ["published", "iou"])
def test_radius_is_golden(formula):
    for overlap in np.unique(GOLDEN[f"radius/{formula}"][:, 2]):
        table = GOLDEN[f"radius/{formula}"]
        height, width, _, expected = table[table[:, 2] == overlap].T
        radius = gaussian_radius(height, width, overlap, formula)
        np.testing.assert_allclose(radius, expected, rtol=1e-12)
        assert (radius.astype(int) == expected.astype(int)).all()


@pytest.mark.parametrize("overlap", [0.3, 0.7])
def test_iou_radius_guarantees_the_overlap(overlap):
    def iou(left, top, right, bottom):  # of (0, 0, width, height) and this box with its corners moved
        common = (min(width, width + right) - max(0, left)) * (min(height, height + bottom) - max(0, top))
        return common / (width * height + (width + right - left) * (height + bottom - top) - common)

    for height, width in [(10.0, 10.0), (3.0, 40.0), (100.0, 50.0)]:
        r = float(gaussian_radius(height, width, overlap, "iou"))
        moves = itertools.product((-r, 0, r), repeat=4)
        assert min(iou(*move) for move in moves) == pytest.approx(overlap)


def test_drawing_is_golden():
    plane = np.zeros_like(GOLDEN["draw/heatmap"])
    for x, y, radius in GOLDEN["draw/points"].tolist():
        draw_gaussian(plane, x, y, radius)
    np.testing.assert_allclose(plane, GOLDEN["draw/heatmap"], atol=1e-7)


@pytest.mark.parametrize(("x", "y", "radius"), [(0, 0, 2), (6, 4, 9), (3, 2, 0), (5, 1, 1)])
def test_drawing_is_the_maximum_with_the_formula(x, y, radius):
    plane = np.full((5, 7), 0.25, np.float32)
    draw_gaussian(plane, x, y, radius)
    sigma = (2 * radius + 1) / 6
    for row in range(5):
        for column in range(7):
            dx, dy = column - x, row - y
            near = max(abs(dx), abs(dy)) <= radius
            value = math.exp(-(dx * dx + dy * dy) / (2 * sigma * sigma)) if near else 0.0
            assert plane[row, column] == pytest.approx(max(value, 0.25), abs=1e-7)
    assert plane[y, x] == 1


def brute_force_peaks(heatmap, count, window):
    classes, height, width = heatmap.shape
    found, reach = [], window // 2
    for label in range(classes):
        for y in range(height):
            for x in range(width):
                around = heatmap[label, max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
                if heatmap[label, y, x] == around.max():
                    found.append((-heatmap[label, y, x], label, y, x))
    return [(label, y, x, -score) for score, label, y, x in sorted(found)[:count]]


@pytest.mark.parametrize("levels", [None, 5])  # five levels give many equal scores and plateaus
@pytest.mark.parametrize("count", [1, 20, 10_000])
@pytest.mark.parametrize("window", [1, 3, 5, 9])
def test_peaks_equal_a_brute_force_search(levels, count, window):
    heatmap = np.random.default_rng(7).random((4, 9, 12), np.float32)
    if levels:
        heatmap = np.floor(heatmap * levels).astype(np.float32)
    found = list(zip(*peaks(heatmap, count, window), strict=True))
    assert found == brute_force_peaks(heatmap, count, window)


def test_all_cells_of_a_constant_map_are_peaks():
    labels, ys, xs, scores = peaks(np.full((2, 3, 4), 0.5, np.float32), 100)
    assert len(labels) == 24
    assert (scores == 0.5).all()
    assert labels.dtype == ys.dtype == xs.dtype == np.int64


def test_peaks_of_strided_maps():
    heatmap = np.random.default_rng(8).random((3, 8, 8), np.float32)
    mirrored = peaks(heatmap[..., ::-1], 10)
    for ours, plain in zip(mirrored, peaks(np.ascontiguousarray(heatmap[..., ::-1]), 10), strict=True):
        np.testing.assert_array_equal(ours, plain)
