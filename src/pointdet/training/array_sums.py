# SPDX-License-Identifier: Apache-2.0
"""One number for each of many arrays, computed on the device and copied to the host at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import nnabla as nn
import nnabla.functions as F

from pointdet.arrays import Float32Array


class ArraySums:
    """The sums of `function` over arrays that stay the same objects. The graph is built once.

    One copy at the end, not one for each array: every copy waits for the GPU.
    """

    def __init__(self, arrays: Sequence[nn.NdArray], function: Callable[[nn.Variable], nn.Variable]) -> None:
        """`function`: element-wise, on a variable with the shape of an array."""
        self._sums = F.stack(*(F.sum(function(_variable(array))) for array in arrays))

    def compute(self) -> Float32Array:
        """(number of arrays,) in the order of the arrays."""
        self._sums.forward(clear_buffer=True)
        sums: Float32Array = self._sums.d
        return sums


def _variable(array: nn.NdArray) -> nn.Variable:
    variable = nn.Variable(array.shape)
    variable.data = array
    return variable
