# SPDX-License-Identifier: Apache-2.0
"""Corner pooling as one NNabla function with NumPy: a running maximum over rows or columns."""

from __future__ import annotations

from collections.abc import Iterator

import nnabla as nn
import numpy as np
from nnabla.function import PythonFunction

from pointdet.arrays import Float32Array
from pointdet.ops.cpu.memory import data, grad, silent, store, workspace
from pointdet.ops.cpu.process_state import function_context

BLOCK = 1 << 17  # values of a block of maps: 512 KiB


def running_maximum(x: nn.Variable, axis: int, from_end: bool) -> nn.Variable:
    """The maximum of x (B, C, H, W) from one end of `axis`, 2 or 3, up to each cell.

    The gradient goes to the cell of the maximum. Among equal cells it goes to the first one from that end.
    """
    return _RunningMaximum(function_context(), axis, from_end)(x)


class _RunningMaximum(PythonFunction):
    def __init__(self, ctx: nn.Context, axis: int, from_end: bool) -> None:
        super().__init__(ctx)
        self._axis, self._from_end = axis, from_end

    @property
    def name(self) -> str:
        return "CpuRunningMaximum"

    def min_outputs(self) -> int:
        return 1

    def grad_depends_output_data(self, i: int, o: int) -> bool:
        return True

    def grad_depends_input_data(self, i: int, j: int) -> bool:
        return True

    def setup_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        outputs[0].reset_shape(inputs[0].shape, True)

    @silent
    def forward_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        for x, y in self._blocks(data(inputs[0]), data(outputs[0])):
            lines, result = self._lines("values", x), self._lines("maxima", y, read=False)
            result[0] = lines[0]
            for i in range(1, len(lines)):
                np.maximum(lines[i], result[i - 1], out=result[i])
            self._copy_back(result, y)

    @silent
    def backward_impl(
        self,
        inputs: list[nn.Variable],
        outputs: list[nn.Variable],
        propagate_down: list[bool],
        accum: list[bool],
    ) -> None:
        arrays = (data(inputs[0]), data(outputs[0]), grad(outputs[0]), grad(inputs[0]))
        for x, y, dy, dx in self._blocks(*arrays):
            lines, maxima, gradients = (
                self._lines(n, a) for n, a in (("values", x), ("maxima", y), ("gradients", dy))
            )
            result = self._lines("result", dx, read=accum[0])
            total = workspace("total", *gradients[0].shape)  # not yet given to the cell of the maximum
            share = workspace("share", *gradients[0].shape)
            total[...] = 0
            for i in range(len(lines) - 1, -1, -1):
                total += gradients[i]
                if i > 0:
                    np.multiply(total, lines[i] > maxima[i - 1], out=share)
                    total -= share
                else:
                    share = total
                store(result[i], share, accum[0])
            self._copy_back(result, dx)

    def _blocks(self, *arrays: Float32Array) -> Iterator[list[Float32Array]]:
        """The maps (n, H, W) in blocks that fit the cache."""
        flat = [array.reshape(-1, *array.shape[2:]) for array in arrays]
        step = max(1, BLOCK // flat[0][0].size)
        for first in range(0, len(flat[0]), step):
            yield [array[first : first + step] for array in flat]

    def _lines(self, name: str, maps: Float32Array, read: bool = True) -> Float32Array:
        """(n, H, W) -> lines (length, n, other) in the order of the scan. Rows are a view, columns a copy."""
        if self._axis == 2:
            lines = maps.swapaxes(0, 1)
        else:
            copy = workspace(name, len(maps), maps.shape[2], maps.shape[1])
            if read:
                copy[...] = maps.swapaxes(1, 2)
            lines = copy.swapaxes(0, 1)
        return lines[::-1] if self._from_end else lines

    def _copy_back(self, lines: Float32Array, maps: Float32Array) -> None:
        if self._axis == 3:
            ordered = lines[::-1] if self._from_end else lines
            maps[...] = ordered.transpose(1, 2, 0)
