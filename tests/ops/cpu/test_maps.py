# SPDX-License-Identifier: Apache-2.0
"""Sums, channel ranges and layouts of maps against NNabla's functions: values and gradients."""

import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest
from layouts import first, last

from pointdet.ops.cpu import interpolation, maps
from pointdet.ops.cpu.onednn_library import library_file

LIBRARIES = [
    "blas",
    pytest.param(
        "onednn",
        marks=pytest.mark.skipif(library_file() is None, reason="onednn-cpu-gomp is not installed"),
    ),
]


def assert_equal(ours, theirs, *shapes):
    """Also if another function uses the inputs, so that gradients accumulate."""
    rng = np.random.default_rng(0)
    inputs = [
        nn.Variable.from_numpy_array(np.float32(rng.standard_normal(s)), need_grad=True) for s in shapes
    ]
    results = []
    for function in (ours, theirs):
        for variable in inputs:
            variable.grad.zero()
        y = function(*inputs)
        loss = F.sum(F.sin(y) * (y + 3)) + sum(F.sum(F.sin(variable)) for variable in inputs)
        loss.forward(clear_no_need_grad=True)
        loss.backward(clear_buffer=True)
        y.forward()
        results.append([y.d.copy(), *(v.g.copy() for v in inputs)])
    for found, expected in zip(*results, strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
def test_add(relu, library):
    shape = (2, 5, 6, 8)
    theirs = (lambda a, b: F.relu(a + b)) if relu else (lambda a, b: a + b)
    assert_equal(lambda a, b: maps.add(a, b, relu, library), theirs, shape, shape)


@pytest.mark.parametrize("parts", [2, 3])
def test_split(parts):
    def ours(x):
        return F.concatenate(*[F.sin(part) for part in maps.split(x, parts)], axis=3)

    assert_equal(ours, F.sin, (2, 5, 3, 12))


def test_to_first():
    assert_equal(maps.to_first, first, (2, 5, 3, 4))


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("kind", ["nearest", "linear"])
def test_upsampling(kind, factor):
    ours = interpolation.upsample_nearest if kind == "nearest" else interpolation.upsample_bilinear

    def theirs(x):
        y = F.interpolate(first(x), (factor, factor), mode=kind, half_pixel=kind == "linear")
        return last(y)

    assert_equal(lambda x: ours(x, factor), theirs, (2, 5, 3, 4))
    assert_equal(lambda x: ours(x, factor), theirs, (1, 1, 1, 3))
