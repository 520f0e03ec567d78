# SPDX-License-Identifier: Apache-2.0
"""The focal loss in NumPy against its definition in float64 and against NNabla's functions, in random cases."""

import nnabla as nn
import numpy as np
import pytest

from pointdet.ops.cpu.focal import BLOCK
from pointdet.ops.losses import heatmap_focal

CASES = [
    (seed, shape)
    for seed in range(8)
    for shape in ((3, 2, 4, 5), (1, 1, 1, 1), (2, 3, 59, 83), (4, 4, 32, 32))
]
CASES += [(100, (1, 2, 1, BLOCK + 1)), (101, (2, 1, 2, BLOCK)), (102, (1, 80, 128, 128))]
SATURATED = np.float32([-1000, -100, -89, -80, -30, -17, 0, 17, 30, 79, 80, 81, 88, 89, 100, 1000])


def make(seed, shape):
    """Logits, some of them saturated, a heatmap with few cells above 0, weights, and the number of positives."""
    rng = np.random.default_rng(seed)
    logits = (4 * rng.standard_normal(shape) - 2).astype(np.float32)
    heatmap = np.where(rng.random(shape) < 0.1 * (seed % 3), rng.random(shape), 0).astype(np.float32)
    heatmap[rng.random(shape) < 0.02] = 1
    some = rng.random(shape) < 0.2
    logits[some] = rng.choice(SATURATED, some.sum())
    weight = rng.choice(np.float32([0, 1, 1, 0.5]), shape[0])
    return logits, heatmap, weight, np.float32(rng.integers(0, 9))


def cells(x, y):
    """The loss of each cell, float64."""
    present, absent = -np.logaddexp(0, -x), -np.logaddexp(0, x)
    return np.where(y == 1, -np.exp(2 * absent) * present, -((1 - y) ** 4) * np.exp(2 * present) * absent)


def definition(logits, heatmap, weight, positives):
    """The loss, and its gradient as a difference quotient."""
    x, y = logits.astype(np.float64), heatmap.astype(np.float64)
    factor = (weight / max(positives, 1)).astype(np.float64).reshape(-1, 1, 1, 1)
    step = 1e-5
    return (cells(x, y) * factor).sum(), (cells(x + step, y) - cells(x - step, y)) / (2 * step) * factor


def run(arrays, kernels, scale=1.0, before=None):
    """The loss and the gradient of the logits. before: a gradient that is already there."""
    inputs = [nn.Variable.from_numpy_array(array) for array in arrays]
    inputs[0].need_grad = True
    inputs[0].grad.zero()
    if before is not None:
        inputs[0].g = before
    loss = heatmap_focal(*inputs, kernels)
    loss.forward(clear_no_need_grad=True)
    loss.backward(scale, clear_buffer=True)
    return float(loss.d), inputs[0].g.copy()


@pytest.mark.parametrize(("seed", "shape"), CASES)
def test_loss_and_gradient(seed, shape):
    arrays = make(seed, shape)
    expected, slope = definition(*arrays)
    value, gradient = run(arrays, "blas")
    assert value == pytest.approx(expected, rel=2e-6, abs=1e-7)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-8 + 1e-6 * np.abs(slope).max())
    assert not gradient[arrays[2] == 0].any()
    theirs, their_gradient = run(arrays, "nnabla")
    assert value == pytest.approx(theirs, rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(gradient, their_gradient, rtol=1e-4, atol=1e-8 + 3e-6 * np.abs(slope).max())


def test_gradient_is_scaled_and_added():
    logits, heatmap, _, _ = make(0, (3, 2, 40, 50))
    weight, positives = np.float32([1, 0, 1]), np.float32(4)
    _, gradient = run((logits, heatmap, weight, positives), "blas")
    there = np.random.default_rng(1).standard_normal(logits.shape).astype(np.float32)
    _, found = run((logits, heatmap, weight, positives), "blas", scale=3.0, before=there)
    np.testing.assert_allclose(found, there + 3 * gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("target", [0, 1])
def test_saturated_cells_keep_their_gradients(target):
    """A wrong cell of any logit has the slope 1 (Law & Deng, 2018, eq. 1), and a loss as large as its logit."""
    for size in (17, 30, 79, 80, 81, 89, 100, 1000):
        logit = np.float32(-size if target else size)
        arrays = (
            np.full((1, 1, 1, 1), logit),
            np.full((1, 1, 1, 1), target, np.float32),
            np.ones(1),
            np.ones(()),
        )
        value, gradient = run([np.float32(array) for array in arrays], "blas")
        assert value == pytest.approx(size, rel=1e-5)
        assert gradient.item() == pytest.approx(-1 if target else 1, rel=1e-5)


def test_a_loss_that_is_not_finite_is_seen():
    arrays = make(0, (2, 2, 40, 50))
    arrays[0][1, 1, 3, 4] = np.nan
    arrays[2][:] = 1
    assert not np.isfinite(run(arrays, "blas")[0])
