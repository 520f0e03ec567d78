# SPDX-License-Identifier: Apache-2.0
"""Convolution with BLAS and oneDNN against NNabla's functions: values, gradients, accumulation, memory."""

import resource

import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest
from layouts import first, last

from pointdet.ops.cpu.convolution import Geometry, convolution, deconvolution, normalised_convolution
from pointdet.ops.cpu.depthwise import depthwise_deconvolution
from pointdet.ops.cpu.onednn_library import library_file

# batch, in, out, height, width, kernel, stride, dilation, groups
CONVOLUTIONS = [
    (2, 3, 8, 33, 47, 7, 2, 1, 1),
    (1, 8, 16, 20, 12, 3, 1, 1, 1),
    (3, 16, 8, 21, 13, 3, 2, 1, 1),
    (2, 8, 12, 9, 11, 1, 1, 1, 1),
    (2, 8, 12, 9, 12, 1, 2, 1, 1),
    (1, 64, 48, 64, 96, 3, 1, 1, 1),  # several blocks
    (1, 4, 4, 1, 1, 3, 1, 1, 1),
    (5, 64, 48, 32, 32, 3, 1, 1, 1),  # blocks of one image
    (7, 96, 40, 14, 18, 3, 1, 1, 1),  # blocks of several images, the last of fewer
    (7, 64, 200, 14, 18, 3, 1, 1, 1),
    (5, 256, 200, 32, 32, 1, 1, 1, 1),
    (2, 8, 12, 15, 17, 3, 1, 2, 1),
    (1, 8, 24, 15, 18, 3, 2, 3, 1),
    (3, 12, 24, 9, 11, 3, 1, 1, 4),
    (2, 12, 24, 9, 11, 1, 1, 1, 3),
    (2, 16, 16, 9, 12, 3, 2, 1, 16),  # depthwise
    (2, 16, 16, 9, 12, 3, 1, 2, 16),
]
# batch, in, out, height, width, groups
DECONVOLUTIONS = [
    (2, 8, 6, 5, 7, 1),
    (1, 64, 64, 48, 64, 1),
    (1, 3, 4, 1, 1, 1),
    (5, 64, 32, 16, 20, 1),
    (3, 24, 24, 6, 9, 24),
    (2, 8, 12, 6, 5, 4),
]
LIBRARIES = [
    "blas",
    pytest.param(
        "onednn",
        marks=pytest.mark.skipif(library_file() is None, reason="onednn-cpu-gomp is not installed"),
    ),
]


def parameters(seed, *shapes):
    """Normal noise, with weights so small that outputs are about 1."""
    rng = np.random.default_rng(seed)
    scales = [1, *(1 / np.sqrt(np.prod(s[1:])) for s in shapes[1:])]
    arrays = [np.float32(rng.standard_normal(s) * scale) for s, scale in zip(shapes, scales, strict=True)]
    return [nn.Variable.from_numpy_array(a, need_grad=True) for a in arrays]


def both(inputs, ours, theirs):
    """Values and gradients of a loss that uses the layer twice and its input once more."""
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


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("with_bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("weights_last", [False, True], ids=["", "NHWC weights"])
def test_convolution(case, with_bias, relu, weights_last, library):
    batch, channels, out, height, width, kernel, stride, dilation, groups = case
    shapes = [(batch, channels, height, width), (out, channels // groups, kernel, kernel), (out,)]
    inputs = parameters(0, *shapes[: 3 if with_bias else 2])
    if library == "blas" and groups > 1:
        pytest.skip("groups need onednn")
    pad = dilation * (kernel // 2)
    geometry = Geometry(pad, library, stride, dilation, groups, weights_last)

    def ours(x, w, b=None):
        return first(convolution(last(x), last(w) if weights_last else w, b, geometry, relu))

    def theirs(x, w, b=None):
        steps = {"pad": (pad, pad), "stride": (stride, stride), "dilation": (dilation, dilation)}
        y = F.convolution(x, w, b, **steps, group=groups)
        return F.relu(y) if relu else y

    for found, expected in both(inputs, ours, theirs):
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("case", DECONVOLUTIONS, ids=str)
@pytest.mark.parametrize("weights_last", [False, True], ids=["", "NHWC weights"])
def test_deconvolution(case, weights_last, library):
    batch, channels, out, height, width, groups = case
    if library == "blas" and groups > 1:
        pytest.skip("groups need onednn")
    inputs = parameters(1, (batch, channels, height, width), (channels, out // groups, 4, 4))

    def ours(x, w):
        geometry = Geometry(1, library, 2, 1, groups, weights_last)
        return first(deconvolution(last(x), last(w) if weights_last else w, geometry))

    def theirs(x, w):
        return F.deconvolution(x, w, pad=(1, 1), stride=(2, 2), group=groups)

    for found, expected in both(inputs, ours, theirs):
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("weights_last", [False, True], ids=["", "NHWC weights"])
def test_depthwise_deconvolution(factor, weights_last):
    inputs = parameters(4, (2, 5, 3, 4), (5, 1, 2 * factor, 2 * factor))

    def ours(x, w):
        return first(depthwise_deconvolution(last(x), last(w) if weights_last else w, weights_last))

    def theirs(x, w):
        return F.deconvolution(x, w, pad=(factor // 2,) * 2, stride=(factor, factor), group=5)

    for found, expected in both(inputs, ours, theirs):
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("case", CONVOLUTIONS[:11], ids=str)
@pytest.mark.parametrize("with_shortcut", [False, True], ids=["", "shortcut"])
@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
def test_normalised_convolution(case, with_shortcut, relu, library):
    batch, channels, out, height, width, kernel, stride, _, _ = case
    x, w = parameters(5, (batch, channels, height, width), (out, channels, kernel, kernel))
    rng = np.random.default_rng(6)
    values = (*rng.standard_normal((3, 1, out, 1, 1)), rng.uniform(0.1, 2, (1, out, 1, 1)))
    norm = [nn.Variable.from_numpy_array(np.float32(v)) for v in values]
    steps = {"pad": (kernel // 2,) * 2, "stride": (stride, stride)}
    expected = F.batch_normalization(F.convolution(x, w, **steps), *norm, eps=1e-5, batch_stat=False)
    shortcut = nn.Variable.from_numpy_array(np.float32(rng.standard_normal(expected.shape)))
    expected = expected + shortcut if with_shortcut else expected
    expected = F.relu(expected) if relu else expected
    geometry = Geometry(kernel // 2, library, stride)
    settings = {"eps": 1e-5, "shortcut": last(shortcut) if with_shortcut else None, "relu": relu}
    found = first(normalised_convolution(last(x), w, norm, geometry, **settings))
    nn.forward_all([expected, found])
    assert np.abs(found.d - expected.d).max() <= 1e-5 * np.abs(expected.d).max()


@pytest.mark.parametrize("library", LIBRARIES)
def test_gradients_accumulate_over_backward_passes(library):
    x, w = parameters(2, (2, 4, 8, 8), (6, 4, 3, 3))
    loss = F.sum(convolution(last(x), w, None, Geometry(1, library)))
    w.grad.zero()
    x.grad.zero()
    gradients = []
    for _ in range(2):
        loss.forward()
        loss.backward()
        gradients.append(w.g.copy())
    np.testing.assert_allclose(gradients[1], 2 * gradients[0], rtol=1e-6)


@pytest.mark.parametrize("library", LIBRARIES)
def test_memory_does_not_grow(library):
    x, w = parameters(3, (1, 16, 32, 32), (16, 16, 3, 3))
    loss = F.sum(convolution(last(x), w, None, Geometry(1, library)))
    sizes = []
    for step in range(1000):
        w.grad.zero()
        loss.forward(clear_no_need_grad=True)
        loss.backward(clear_buffer=True)
        if step in (200, 999):
            sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert sizes[1] - sizes[0] < 2048  # KiB
