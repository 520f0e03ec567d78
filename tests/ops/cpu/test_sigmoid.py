# SPDX-License-Identifier: Apache-2.0
"""The sigmoid against NumPy."""

import nnabla as nn
import numpy as np
import pytest

from pointdet.ops.cpu.sigmoid import BLOCK, sigmoid


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 4, 5), (BLOCK + 1,), (2, BLOCK)])
def test_sigmoid(shape):
    array = 20 * np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    array.ravel()[:: max(1, array.size // 7)] = -200
    x = nn.Variable.from_numpy_array(array)
    y = sigmoid(x)
    y.forward()
    expected = np.exp(-np.logaddexp(0, -array.astype(np.float64)))
    np.testing.assert_allclose(y.d, expected, rtol=1e-6, atol=1e-37)
    assert (y.d[array == -200] == 0).all()
