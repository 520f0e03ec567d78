# SPDX-License-Identifier: Apache-2.0
"""The moving average of parameters and running statistics, compared with NumPy."""

import nnabla as nn
import numpy as np
import pytest

from pointdet.training.moving_average import MovingAverage

SHAPES = {"conv/W": (3, 2, 2, 2), "conv/b": (3,), "bn/mean": (1, 3, 1, 1)}


def draw(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


@pytest.fixture
def parameters():
    found = {}
    for name, array in draw(0).items():
        found[name] = nn.Variable(array.shape, need_grad=name != "bn/mean")
        found[name].d = array
    return found


@pytest.mark.parametrize("in_blocks", [False, True], ids=["nnabla", "in blocks"])
def test_update(parameters, in_blocks):
    average = MovingAverage(parameters, 0.9, in_blocks)
    expected = {name: array.astype(np.float64) for name, array in draw(0).items()}
    for step in range(1, 13):
        for name, array in draw(step).items():
            parameters[name].d = array
            expected[name] = 0.9 * expected[name] + 0.1 * array
        average.update()
    found = average.values()
    assert list(found) == list(SHAPES)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-6)
        assert np.abs(array - parameters[name].d).max() > 1e-3


def test_applied_within_the_block_only(parameters):
    average = MovingAverage(parameters, 0.9, in_blocks=True)
    latest = draw(1)
    for name, array in latest.items():
        parameters[name].d = array
    average.update()
    kept = average.values()
    with pytest.raises(ZeroDivisionError), average.applied():
        for name, array in kept.items():
            np.testing.assert_array_equal(parameters[name].d, array)
        raise ZeroDivisionError
    for name, array in latest.items():
        np.testing.assert_array_equal(parameters[name].d, array)
        np.testing.assert_array_equal(average.values()[name], kept[name])


def test_no_average_with_decay_0(parameters):
    average = MovingAverage(parameters, 0.0, in_blocks=False)
    average.update()
    with average.applied():
        np.testing.assert_array_equal(parameters["conv/b"].d, draw(0)["conv/b"])
    assert not average and not average.values() and not average.statistics
