# SPDX-License-Identifier: Apache-2.0
"""Deformable convolution against golden values and NNabla's function: values, gradients, accumulation."""

import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest
from layouts import first, last

from pointdet.ops.cpu import deformable

# batch, in, out, height, width, standard deviation of the offsets in cells
CASES = [
    (2, 4, 5, 7, 9, 1),
    (1, 3, 2, 1, 1, 1),
    (2, 8, 6, 12, 16, 20),  # most samples are outside the image
    (2, 6, 4, 9, 5, 0),  # without offsets every sample is at the centre of a cell
    (1, 96, 40, 40, 36, 2),  # several blocks
]


def deformable_convolution(x, w, offset, mask, b):
    return first(deformable.deformable_convolution(last(x), w, last(offset), last(mask), b))


def with_weights_last(x, w, offset, mask, b):
    y = deformable.deformable_convolution(last(x), last(w), last(offset), last(mask), b, weights_last=True)
    return first(y)


def nnabla_function(x, w, offset, mask, b):
    return F.deformable_convolution(x, w, offset, mask, b, pad=(1, 1))


FUNCTIONS = pytest.mark.parametrize(
    "function",
    [nnabla_function, deformable_convolution, with_weights_last],
    ids=["nnabla", "ours", "ours, NHWC weights"],
)


def make_inputs(case):
    """Random inputs for which outputs are about 1."""
    batch, channels, out, height, width, spread = case
    rng = np.random.default_rng(0)
    arrays = [
        rng.standard_normal((batch, channels, height, width)),
        rng.standard_normal((out, channels, 3, 3)) / np.sqrt(9 * channels),
        spread * rng.standard_normal((batch, 18, height, width)),
        rng.random((batch, 9, height, width)),
        rng.standard_normal(out),
    ]
    return [nn.Variable.from_numpy_array(np.float32(a), need_grad=True) for a in arrays]


@FUNCTIONS
def test_golden(golden, function):
    """Golden: float64 of the published module, with offsets of several cells, also across the borders."""
    arrays = golden("deformable.npz")
    inputs = {
        name: nn.Variable.from_numpy_array(arrays[f"function/{name}"], need_grad=True)
        for name in ("x", "W", "offset", "mask", "b")
    }
    for variable in inputs.values():
        variable.grad.zero()
    y = function(*inputs.values())
    y.forward()
    y.backward(nn.NdArray.from_numpy_array(arrays["function/gradient/y"]))
    assert np.abs(y.d - arrays["function/y"]).max() <= 1e-6 * np.abs(y.d).max()
    for name, variable in inputs.items():
        expected = arrays[f"function/gradient/{name}"]
        assert np.abs(variable.g - expected).max() <= 1e-6 * np.abs(expected).max(), name


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_nnabla(case):
    """Also if another function uses the inputs, so that gradients accumulate."""
    inputs = make_inputs(case)
    results = []
    for function in (nnabla_function, deformable_convolution):
        for variable in inputs:
            variable.grad.zero()
        y = function(*inputs)
        loss = F.sum(F.sin(y) * y) + sum(F.sum(F.sin(variable)) for variable in inputs)
        loss.forward(clear_no_need_grad=True)
        loss.backward(clear_buffer=True)
        y.forward()
        results.append([y.d.copy(), *(v.g.copy() for v in inputs)])
    for expected, found in zip(*results, strict=True):
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_gradients_accumulate_over_backward_passes():
    inputs = make_inputs(CASES[0])
    y = deformable_convolution(*inputs)
    loss = F.sum(y * y)
    for variable in inputs:
        variable.grad.zero()
    gradients = []
    for _ in range(2):
        loss.forward()
        loss.backward()
        gradients.append([v.g.copy() for v in inputs])
    for once, twice in zip(*gradients, strict=True):
        np.testing.assert_allclose(twice, 2 * once, rtol=1e-5, atol=1e-5)


def test_inputs_without_need_grad_get_no_gradient():
    inputs = make_inputs(CASES[0])
    for i in (0, 2, 4):
        inputs[i].need_grad = False
    for variable in inputs:
        variable.grad.fill(7)
    loss = F.sum(deformable_convolution(*inputs))
    loss.forward()
    loss.backward()
    untouched = [bool((v.g == 7).all()) for v in inputs]
    assert untouched == [True, False, True, False, True]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_offsets_that_are_not_finite_are_accepted(value):
    """A diverged network must reach its loss, where the error is detected."""
    inputs = make_inputs(CASES[0])
    inputs[2].d = np.full(inputs[2].shape, value)
    loss = F.sum(deformable_convolution(*inputs))
    loss.forward()
    loss.backward()
    assert np.isfinite(inputs[4].g).all()
