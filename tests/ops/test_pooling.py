# SPDX-License-Identifier: Apache-2.0
"""Corner pooling against golden arrays and a loop: graph, CPU function, both layouts, half precision."""

import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest
from nnabla.ext_utils import get_extension_context

from pointdet.ops.mode import Mode
from pointdet.ops.pooling import corner_pool

MODES = {
    "graph": Mode(training=False),
    "graph, NHWC": Mode(training=False, channel_last=True),
    "training": Mode(training=True),
    "training, NHWC": Mode(training=True, channel_last=True),
    "CPU function": Mode(training=True, kernels="blas"),
}
DIRECTIONS = ("top", "bottom", "left", "right")


def run(array, direction, mode, dy, before=None):
    """Output and gradient of the input, NCHW. `before`: the gradient before the backward pass."""

    def turned(a):
        return a.transpose(0, 2, 3, 1) if mode.maps_last else a

    def back(a):
        return a.transpose(0, 3, 1, 2) if mode.maps_last else a

    x = nn.Variable(turned(array).shape, need_grad=True)
    x.d = turned(array)
    if before is None:
        x.grad.zero()
    else:
        x.g = turned(before)
    y = F.identity(corner_pool(x, direction, mode))  # of a single line the pool is the input itself
    y.forward()
    y.backward(turned(dy))
    return back(y.d), back(x.g)


def expected_pool(array, direction, dy):
    """(output, gradient), cell by cell from the definition."""
    axis = 2 if direction in ("top", "bottom") else 3
    ordered = np.moveaxis(array, axis, -1)
    dy_lines = np.moveaxis(dy, axis, -1)
    if direction in ("top", "left"):
        ordered, dy_lines = ordered[..., ::-1], dy_lines[..., ::-1]
    result, gradient = np.empty_like(ordered), np.zeros_like(ordered)
    for line in np.ndindex(ordered.shape[:-1]):
        best = 0
        for i, value in enumerate(ordered[line]):
            best = i if value > ordered[line][best] else best
            result[line][i] = ordered[line][best]
            gradient[line][best] += dy_lines[line][i]
    if direction in ("top", "left"):
        result, gradient = result[..., ::-1], gradient[..., ::-1]
    return np.moveaxis(result, -1, axis), np.moveaxis(gradient, -1, axis)


@pytest.mark.parametrize("form", MODES)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("case", ["real", "ties", "neg", "const"])
def test_published(golden, case, direction, form):
    arrays = golden("corner_pools.npz")
    y, gradient = run(arrays[f"{case}/x"], direction, MODES[form], arrays["grad_output"])
    np.testing.assert_array_equal(y, arrays[f"{case}/{direction}/y"])
    np.testing.assert_allclose(gradient, arrays[f"{case}/{direction}/gx"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", MODES)
@pytest.mark.parametrize(
    ("row", "direction", "output", "gradient"),
    [
        ((2, 1, 3, 0, 2), "left", (3, 3, 3, 2, 2), (0, 0, 3, 0, 2)),
        ((2, 1, 3, 0, 2), "right", (2, 2, 3, 3, 3), (2, 0, 3, 0, 0)),
        ((1, 3, 3, 0), "left", (3, 3, 3, 0), (0, 0, 3, 1)),
        ((1, 3, 3, 0), "right", (1, 3, 3, 3), (1, 3, 0, 0)),
    ],
)
def test_worked_examples(row, direction, output, gradient, form):
    for shape, turned in (
        ((1, 1, 1, -1), direction),
        ((1, 1, -1, 1), {"left": "top", "right": "bottom"}[direction]),
    ):
        x = np.array(row, np.float32).reshape(shape)
        y, found = run(x, turned, MODES[form], np.ones_like(x))
        assert y.ravel().tolist() == list(output) and found.ravel().tolist() == list(gradient)


@pytest.mark.parametrize("form", MODES)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (6, 9), (17, 33)])
def test_any_size(size, direction, form):
    rng = np.random.default_rng(sum(size))
    x = rng.integers(0, 4, (2, 3, *size)).astype(np.float32)  # with many equal values
    dy = rng.standard_normal(x.shape).astype(np.float32)
    before = rng.standard_normal(x.shape).astype(np.float32)
    expected, gradient = expected_pool(x, direction, dy)
    y, found = run(x, direction, MODES[form], dy)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_allclose(found, gradient, rtol=0, atol=1e-5)
    _, added = run(x, direction, MODES[form], dy, before)
    np.testing.assert_allclose(added, before + gradient, rtol=0, atol=1e-5)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_several_blocks(direction):
    """The CPU function works in blocks of maps. It must agree with the graph across blocks."""
    x = np.random.default_rng(0).standard_normal((2, 20, 100, 90)).astype(np.float32)
    y, gradient = run(x, direction, MODES["CPU function"], np.ones_like(x))
    expected, expected_gradient = run(x, direction, MODES["graph"], np.ones_like(x))
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(gradient, expected_gradient)


@pytest.mark.parametrize("channel_last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_training_is_the_graph_to_the_last_bit(direction, channel_last):
    """Two pools as in CornerNet, over several steps, in a graph whose maps are cleared as in training."""
    shape = (2, 30, 17, 6) if channel_last else (2, 6, 30, 17)
    found = []
    for training in (False, True):
        rng = np.random.default_rng(0)
        x = nn.Variable(shape, need_grad=True)
        x.grad.zero()
        mode = Mode(training=training, channel_last=channel_last)
        first, second = F.relu(1.5 * x), F.relu(x - 1)
        pools = corner_pool(first, direction, mode) + corner_pool(second, "left", mode)
        loss = F.sum(pools * nn.Variable.from_numpy_array(rng.standard_normal(shape)))
        for _ in range(3):
            x.d = rng.integers(-2, 6, shape)  # with many equal values
            loss.forward(clear_no_need_grad=True)
            loss.backward(1.0, clear_buffer=True)
            found.append((float(loss.d), x.g.copy()))
    for (value, gradient), (trained, trained_gradient) in zip(found[:3], found[3:], strict=True):
        assert value == trained
        np.testing.assert_array_equal(trained_gradient, gradient)


@pytest.mark.parametrize("form", ["graph", "training"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_half(direction, form):
    x = np.random.default_rng(1).standard_normal((1, 2, 9, 6)).astype(np.float16).astype(np.float32)
    expected, gradient = expected_pool(x, direction, np.ones_like(x))
    with nn.context_scope(get_extension_context("cpu", type_config="half")):
        y, found = run(x, direction, MODES[form], np.ones_like(x))
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(found, gradient)
