# SPDX-License-Identifier: Apache-2.0
"""Convolution through BLAS against NNabla's own functions: values, all gradients, accumulation, memory."""

import resource

import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest

from pointdet.ops.cpu import convolution

# batch, in, out, height, width, kernel, stride
CONVOLUTIONS = [
    (2, 3, 8, 33, 47, 7, 2),
    (1, 8, 16, 20, 12, 3, 1),
    (3, 16, 8, 21, 13, 3, 2),
    (2, 8, 12, 9, 11, 1, 1),
    (2, 8, 12, 9, 12, 1, 2),
    (1, 64, 48, 64, 96, 3, 1),  # several blocks
    (1, 4, 4, 1, 1, 3, 1),
    (5, 64, 48, 32, 32, 3, 1),  # blocks of one image
    (7, 96, 40, 14, 18, 3, 1),  # blocks of several images, the last of fewer
    (7, 64, 200, 14, 18, 3, 1),
    (5, 256, 200, 32, 32, 1, 1),
]
DECONVOLUTIONS = [(2, 8, 6, 5, 7), (1, 64, 64, 48, 64), (1, 3, 4, 1, 1), (5, 64, 32, 16, 20)]


def parameters(seed, *shapes):
    """Normal noise; weights so small that outputs are about 1 and rounding is not blown up."""
    rng = np.random.default_rng(seed)
    scales = [1, *(1 / np.sqrt(np.prod(s[1:])) for s in shapes[1:])]
    arrays = [np.float32(rng.standard_normal(s) * scale) for s, scale in zip(shapes, scales, strict=True)]
    return [nn.Variable.from_numpy_array(a, need_grad=True) for a in arrays]


def both(inputs, ours, theirs):
    """Values and gradients of a loss that reads the layer twice and its input once more."""
    results = []
    for function in (theirs, ours):
        for variable in inputs:
            variable.grad.zero()
        y = function(*inputs)
        loss = F.sum(F.sin(y) * y) + F.sum(F.sin(inputs[0]))
        loss.forward(clear_no_need_grad=True)
        loss.backward(clear_buffer=True)
        y.forward()
        results.append([y.d.copy(), *(v.g.copy() for v in inputs)])
    return zip(*results, strict=True)


@pytest.mark.parametrize("case", CONVOLUTIONS)
@pytest.mark.parametrize("with_bias", [False, True])
def test_convolution(case, with_bias):
    batch, channels, out, height, width, kernel, stride = case
    shapes = [(batch, channels, height, width), (out, channels, kernel, kernel), (out,)]
    inputs = parameters(0, *shapes[: 3 if with_bias else 2])
    pad = kernel // 2

    def ours(x, w, b=None):
        return convolution.convolution(x, w, b, pad, stride)

    def theirs(x, w, b=None):
        return F.convolution(x, w, b, pad=(pad, pad), stride=(stride, stride))

    for found, expected in both(inputs, ours, theirs):
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("case", DECONVOLUTIONS)
def test_deconvolution(case):
    batch, channels, out, height, width = case
    inputs = parameters(1, (batch, channels, height, width), (channels, out, 4, 4))

    def ours(x, w):
        return convolution.deconvolution(x, w, 1, 2)

    def theirs(x, w):
        return F.deconvolution(x, w, pad=(1, 1), stride=(2, 2))

    for found, expected in both(inputs, ours, theirs):
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_gradients_add_up_over_passes():
    x, w = parameters(2, (2, 4, 8, 8), (6, 4, 3, 3))
    loss = F.sum(convolution.convolution(x, w, None, 1, 1))
    w.grad.zero()
    x.grad.zero()
    gradients = []
    for _ in range(2):
        loss.forward()
        loss.backward()
        gradients.append(w.g.copy())
    np.testing.assert_allclose(gradients[1], 2 * gradients[0], rtol=1e-6)


def test_memory_does_not_grow():
    x, w = parameters(3, (1, 16, 32, 32), (16, 16, 3, 3))
    loss = F.sum(convolution.convolution(x, w, None, 1, 1))
    sizes = []
    for step in range(1000):
        w.grad.zero()
        loss.forward(clear_no_need_grad=True)
        loss.backward(clear_buffer=True)
        if step in (200, 999):
            sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert sizes[1] - sizes[0] < 2048  # KiB
