# SPDX-License-Identifier: Apache-2.0
"""The stopwatch sums the seconds of each stage, and a timed predictor has the same detections."""

import time

import numpy as np
import pytest

from pointdet.config.schema import CtDetConfig, InputConfig, TestConfig
from pointdet.detectors.ctdet.codec import CtDetCodec
from pointdet.inference.predictor import Predictor
from pointdet.inference.stopwatch import Stopwatch, timed


def test_stages_add_up():
    stopwatch = Stopwatch()
    for _ in range(2):
        with stopwatch("a"):
            time.sleep(0.01)
    with pytest.raises(ZeroDivisionError), stopwatch("b"):
        raise ZeroDivisionError
    assert list(stopwatch.seconds) == ["a", "b"]
    assert 0.02 <= stopwatch.seconds["a"] < 0.5 and stopwatch.seconds["b"] < 0.01


def test_each_times_the_producer_not_the_consumer():
    def slow():
        for number in range(3):
            time.sleep(0.01)
            yield number

    stopwatch, taken = Stopwatch(), []
    for number in stopwatch.each("made", slow()):
        time.sleep(0.05)
        taken.append(number)
    assert taken == [0, 1, 2] and 0.03 <= stopwatch.seconds["made"] < 0.14


def test_a_timed_predictor_has_the_same_detections():
    maps = np.random.default_rng(0).random((2, 8, 16, 16), np.float32)

    def network(images):
        time.sleep(0.02)
        batch = maps[: len(images)]
        return {"heatmap": batch[:, :4], "size": batch[:, 4:6], "offset": batch[:, 6:]}

    codec = CtDetCodec.of(CtDetConfig(), 4, 64, 64)
    test = TestConfig(flip=True, soft_nms=True, max_detections=7)
    predictor = Predictor(network, codec, InputConfig(height=64, width=64), test, "abcd")
    stopwatch = Stopwatch()
    timed_predictor = timed(predictor, stopwatch)
    image = np.zeros((50, 60, 3), np.uint8)
    found, expected = timed_predictor(image), predictor(image)
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    assert len(found) == 7 and timed_predictor.codec.num_classes == 4
    assert list(stopwatch.seconds) == ["network", "decode", "NMS"]
    assert stopwatch.seconds["network"] >= 0.02 > stopwatch.seconds["decode"] > 0
    assert predictor.network is network and predictor.codec is codec
