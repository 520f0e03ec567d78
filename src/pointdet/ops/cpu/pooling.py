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
    """The maximum of x (B, H, W, C) from one end of `axis`, 1 or 2, up to each cell.

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
            y[0] = x[0]
            for i in range(1, len(x)):
                np.maximum(x[i], y[i - 1], out=y[i])

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
            total = workspace("total", *dy[0].shape)  # not yet given to the cell of the maximum
            share = workspace("share", *dy[0].shape)
            total[...] = 0
            for i in range(len(x) - 1, -1, -1):
                total += dy[i]
                if i > 0:
                    np.multiply(total, x[i] > y[i - 1], out=share)
                    total -= share
                else:
                    share = total
                store(dx[i], share, accum[0])

    def _blocks(self, *arrays: Float32Array) -> Iterator[list[Float32Array]]:
        """The lines in the order of the scan: (length, n, C). A block fits the cache."""
        for image in zip(*arrays, strict=True):
            step = max(1, BLOCK // (image[0].size // image[0].shape[2 - self._axis]))
            for first in range(0, image[0].shape[2 - self._axis], step):
                parts = [self._lines(maps)[:, first : first + step] for maps in image]
                yield [part[::-1] for part in parts] if self._from_end else parts

    def _lines(self, maps: Float32Array) -> Float32Array:
        """(H, W, C) with the axis of the scan first."""
        return maps if self._axis == 1 else maps.swapaxes(0, 1)
