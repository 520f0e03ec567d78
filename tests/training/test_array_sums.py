# SPDX-License-Identifier: Apache-2.0
"""Sums over many arrays, compared with NumPy."""

import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest

from pointdet.training.array_sums import ArraySums

SHAPES = ((4, 5), (7,), (1, 3, 2, 2))


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return [nn.NdArray.from_numpy_array(rng.standard_normal(shape).astype(np.float32)) for shape in SHAPES]


def test_squares(arrays):
    sums = ArraySums(arrays, lambda g: F.mul2(g, g))
    for factor in (1, 3):  # the graph reads the present values
        for array in arrays:
            array.data *= factor
        expected = [(array.data.astype(np.float64) ** 2).sum() for array in arrays]
        np.testing.assert_allclose(sums.compute(), expected, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 65504, np.finfo(np.float32).max])
@pytest.mark.parametrize("number", range(len(SHAPES)))
def test_values_times_zero_find_only_what_is_not_finite(arrays, number, value):
    sums = ArraySums(arrays, lambda g: g * 0)
    assert not sums.compute().any()
    arrays[number].data.ravel()[-1] = value
    expected = [i == number and not np.isfinite(value) for i in range(len(SHAPES))]
    np.testing.assert_array_equal(~np.isfinite(sums.compute()), expected)


def test_arrays_keep_their_values(arrays):
    before = [array.data.copy() for array in arrays]
    ArraySums(arrays, lambda g: g * 0).compute()
    for array, values in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array.data, values)


def test_gradients_in_half_precision(arrays):
    """Gradients of half functions are half arrays; they are summed in float32."""
    for array in arrays:
        array.cast(np.float16)[...] = 300
    sums = ArraySums(arrays, lambda g: F.mul2(g, g)).compute()
    np.testing.assert_array_equal(sums, [90000 * np.prod(shape) for shape in SHAPES])  # above 65504
