# SPDX-License-Identifier: Apache-2.0
"""The keys nms_kernel, suppression, nms_sigma and nms_threshold of every detector."""

import numpy as np
import pytest

from pointdet.config.load import validate
from pointdet.detectors import catalogue
from pointdet.structures import Detections
from pointdet.suppression import SoftNms

NAMES = ("ctdet", "cornernet", "triplet")
PAIR = Detections(
    np.array([[0, 0, 40, 40], [4, 0, 44, 40]], np.float32),
    np.zeros(2, np.int64),
    np.array([0.9, 0.8], np.float32),
    np.array([[0.9, 0.9], [0.8, 0.8]], np.float32),
    Detections(np.array([[21, 20, 21, 20]], np.float32), np.zeros(1, np.int64), np.ones(1, np.float32)),
)


def codec(name, **settings):
    config = validate(
        {"dataset": {"dataset": "x", "format": "coco"}, "detector": {"name": name, **settings}}, "the test"
    )
    return catalogue.build(config, 1).codec


def scores(name, **settings):
    return codec(name, **settings).select([(1.0, PAIR)], (64, 64), True, 100).scores


@pytest.mark.parametrize("name", NAMES)
def test_suppression(name):
    iou = SoftNms(decay="linear", iou_threshold=0)(PAIR, 2).scores[1] / 0.8
    iou = 1 - float(iou)
    assert 0.75 < iou < 0.9
    first, second = (2 * PAIR.scores + 1) / 3 if name == "triplet" else PAIR.scores
    for settings, factor in (
        ({}, np.exp(-(iou**2) / 0.5)),
        ({"nms_sigma": 0.2}, np.exp(-(iou**2) / 0.2)),
        ({"suppression": "linear"}, 1 - iou),
        ({"suppression": "linear", "nms_threshold": 0.9}, 1),
        ({"suppression": "hard", "nms_threshold": 0.9}, 1),
    ):
        np.testing.assert_allclose(scores(name, **settings), [first, second * factor], rtol=1e-5)
    np.testing.assert_allclose(scores(name, suppression="hard"), [first], rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_kernel(name):
    """Two peaks of a heatmap, two cells apart: a window of 5 x 5 cells keeps the higher one."""
    plane = np.zeros((1, 16, 16), np.float32)
    plane[0, 8, 8], plane[0, 8, 10], plane[0, 8, 9] = 0.9, 0.8, 0.7
    for window, count in ((1, 3), (3, 2), (5, 1)):
        made = codec(name, nms_kernel=window)
        maps = {"heatmap": plane, "size": np.ones((2, 16, 16)), "offset": np.zeros((2, 16, 16))}
        if name != "ctdet":
            maps = {f"centre_{key}": value for key, value in maps.items()}
            found = (made.corners if name == "triplet" else made).keypoints(
                maps | corner_maps(plane), "centre"
            )
        else:
            found = made.decode(maps, 100)
        assert (found.scores > 0).sum() == count


def corner_maps(plane):
    return {f"{corner}_heatmap": plane for corner in ("top_left", "bottom_right")}
