# SPDX-License-Identifier: Apache-2.0
"""Max pooling with NumPy and oneDNN against NNabla's function: values, gradients, equal values."""

import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest
from layouts import first, last

from pointdet.ops.cpu.max_pooling import max_pooling
from pointdet.ops.cpu.onednn_library import library_file

LIBRARIES = [
    "blas",
    pytest.param(
        "onednn",
        marks=pytest.mark.skipif(library_file() is None, reason="onednn-cpu-gomp is not installed"),
    ),
]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("window", [(2, 2, 0), (3, 2, 1), (3, 1, 1)], ids=str)
@pytest.mark.parametrize("size", [(8, 12), (7, 9), (1, 1), (33, 20)], ids=str)
@pytest.mark.parametrize("ties", [False, True], ids=["", "ties"])
def test_equals_nnabla(size, window, ties, library):
    """Also if another function uses the input, so that gradients accumulate."""
    kernel, stride, pad = window
    if kernel > 2 * pad + min(size):
        pytest.skip("the window is larger than the map")
    rng = np.random.default_rng(0)
    values = rng.integers(-2, 3, (2, 9, *size)) if ties else rng.standard_normal((2, 9, *size))
    x = nn.Variable.from_numpy_array(np.float32(values), need_grad=True)
    results = []
    for function in (
        lambda x: F.max_pooling(x, (kernel,) * 2, (stride,) * 2, pad=(pad,) * 2),
        lambda x: first(max_pooling(last(x), kernel=kernel, stride=stride, pad=pad, library=library)),
    ):
        x.grad.zero()
        y = function(x)
        loss = F.sum(F.sin(y) * (y + 3)) + F.sum(F.sin(x))
        loss.forward(clear_no_need_grad=True)
        loss.backward(clear_buffer=True)
        y.forward()
        results.append((y.d.copy(), x.g.copy()))
    for expected, found in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
