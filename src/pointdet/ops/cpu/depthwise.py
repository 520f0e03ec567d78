# SPDX-License-Identifier: Apache-2.0
"""Depthwise deconvolution to a multiple of the size as an NNabla function, with NumPy."""

from __future__ import annotations

from collections.abc import Iterator

import nnabla as nn
import numpy as np
from nnabla.function import PythonFunction

from pointdet.arrays import Float32Array
from pointdet.ops.cpu.memory import data, grad, silent, store, workspace
from pointdet.ops.cpu.process_state import function_context


def depthwise_deconvolution(x: nn.Variable, w: nn.Variable, weights_last: bool) -> nn.Variable:
    """Like F.deconvolution with one group per channel, stride f and pad f / 2: x (B, H, W, C) -> (B, f H, f W, C).

    w: (C, 1, 2 f, 2 f), or (C, 2 f, 2 f, 1) if `weights_last`.
    """
    return _DepthwiseDeconvolution(function_context(), weights_last)(x, w)


class _DepthwiseDeconvolution(PythonFunction):
    """Each cell of y is the sum of four cells of x: two rows and two columns."""

    def __init__(self, ctx: nn.Context, weights_last: bool) -> None:
        super().__init__(ctx)
        self._weights_last = weights_last

    @property
    def name(self) -> str:
        return "CpuDepthwiseDeconvolution"

    def min_outputs(self) -> int:
        return 1

    def grad_depends_output_data(self, i: int, o: int) -> bool:
        return False

    def grad_depends_input_data(self, i: int, j: int) -> bool:
        return {i, j} == {0, 1}

    def setup_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        batch, height, width, channels = inputs[0].shape
        self._factor = inputs[1].shape[2] // 2
        outputs[0].reset_shape((batch, height * self._factor, width * self._factor, channels), True)

    @silent
    def forward_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        x, y = _padded(data(inputs[0])), data(outputs[0])
        taps = self._taps(data(inputs[1]))
        product = workspace("product", *inputs[0].shape)
        for cells, terms in self._phases(y, x):
            for i, (neighbours, row, column) in enumerate(terms):
                np.multiply(neighbours, taps[row, column], out=product if i else cells)
                if i:
                    cells += product

    @silent
    def backward_impl(
        self,
        inputs: list[nn.Variable],
        outputs: list[nn.Variable],
        propagate_down: list[bool],
        accum: list[bool],
    ) -> None:
        dy, x = grad(outputs[0]), _padded(data(inputs[0]))
        taps = self._taps(data(inputs[1]))
        dtaps = np.empty_like(taps)
        dx = workspace("padded gradient", *x.shape)
        dx[...] = 0
        product = workspace("product", *inputs[0].shape)
        for (gradients, terms), (_, targets) in zip(self._phases(dy, x), self._phases(dy, dx), strict=True):
            for (neighbours, row, column), (target, _, _) in zip(terms, targets, strict=True):
                np.multiply(gradients, taps[row, column], out=product)
                target += product
                np.multiply(gradients, neighbours, out=product)
                dtaps[row, column] = product.sum((0, 1, 2))
        if propagate_down[0]:
            store(grad(inputs[0]), dx[:, 1:-1, 1:-1], accum[0])
        if propagate_down[1]:
            dw = dtaps.transpose(2, 0, 1)
            store(grad(inputs[1]), dw[..., None] if self._weights_last else dw[:, None], accum[1])

    def _taps(self, w: Float32Array) -> Float32Array:
        """The weights as (2 f, 2 f, C)."""
        taps = w[..., 0] if self._weights_last else w[:, 0]
        return np.ascontiguousarray(taps.transpose(1, 2, 0))

    def _phases(
        self, y: Float32Array, padded: Float32Array
    ) -> Iterator[tuple[Float32Array, list[tuple[Float32Array, int, int]]]]:
        """For each phase of y: its cells, and the cells of x with the row and the column of their weight."""
        f = self._factor
        height, width = padded.shape[1] - 2, padded.shape[2] - 2
        for row in range(f):
            for column in range(f):
                terms = [
                    (padded[:, i : i + height, j : j + width], tap_row, tap_column)
                    for i, tap_row in self._sources(row)
                    for j, tap_column in self._sources(column)
                ]
                yield y[:, row::f, column::f], terms

    def _sources(self, phase: int) -> list[tuple[int, int]]:
        """Along one axis: the first cell of the padded x, and the number of the weight."""
        f = self._factor
        first = (phase + f // 2) % f  # y = f x - f / 2 + tap
        shift = (phase + f // 2) // f
        return [(1 + shift, first), (shift, first + f)]


def _padded(x: Float32Array) -> Float32Array:
    """With a border of one zero."""
    batch, height, width, channels = x.shape
    padded = workspace("padded", batch, height + 2, width + 2, channels)
    padded[:, 0] = padded[:, -1] = 0
    padded[:, :, 0] = padded[:, :, -1] = 0
    padded[:, 1:-1, 1:-1] = x
    return padded
