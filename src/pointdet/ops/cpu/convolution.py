# SPDX-License-Identifier: Apache-2.0
"""Convolution and deconvolution with square kernels as NNabla functions, over either library."""

from __future__ import annotations

import nnabla as nn
from nnabla.function import PythonFunction

from pointdet.ops.cpu.blas import Blas, Grouped
from pointdet.ops.cpu.correlation import Correlation, Geometry
from pointdet.ops.cpu.memory import Floats, data, grad, silent
from pointdet.ops.cpu.onednn import OneDnn


def convolution(
    x: nn.Variable,
    w: nn.Variable,
    b: nn.Variable | None,
    *,
    pad: int,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    library: str,
) -> nn.Variable:
    """As F.convolution: x (B, C, H, W), w (O, C / groups, k, k), b (O,) or None."""
    inputs = [x, w] if b is None else [x, w, b]
    return _Convolution(nn.get_current_context(), library, pad, stride, dilation, groups)(*inputs)


def deconvolution(
    x: nn.Variable, w: nn.Variable, *, pad: int, stride: int, groups: int = 1, library: str
) -> nn.Variable:
    """As F.deconvolution: x (B, C, h, w), w (C, O / groups, k, k)."""
    return _Deconvolution(nn.get_current_context(), library, pad, stride, 1, groups)(x, w)


def correlation_of(geometry: Geometry, library: str) -> Correlation:
    """The layer's three sums through "blas" or "onednn"."""
    if library == "onednn":
        return OneDnn(geometry)
    return Grouped(geometry) if geometry.groups > 1 else Blas(geometry)


class _Layer(PythonFunction):
    """What both functions share."""

    def __init__(
        self, ctx: nn.Context, library: str, pad: int, stride: int, dilation: int, groups: int
    ) -> None:
        super().__init__(ctx)
        self._library, self._pad, self._stride = library, pad, stride
        self._dilation, self._groups = dilation, groups

    def min_outputs(self) -> int:
        return 1

    def grad_depends_output_data(self, i: int, o: int) -> bool:
        return False

    def grad_depends_input_data(self, i: int, j: int) -> bool:
        return {i, j} == {0, 1}

    def _correlation(
        self, batch: int, channels: int, height: int, width: int, out_channels: int, kernel: int
    ) -> Correlation:
        self._geometry = Geometry(
            *(batch, channels, height, width, out_channels, kernel),
            *(self._pad, self._stride, self._dilation, self._groups),
        )
        return correlation_of(self._geometry, self._library)


class _Convolution(_Layer):
    @property
    def name(self) -> str:
        return "CpuConvolution"

    def setup_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        batch, channels, height, width = inputs[0].shape
        out_channels, _, kernel, _ = inputs[1].shape
        self._sums = self._correlation(batch, channels, height, width, out_channels, kernel)
        shape = (batch, out_channels, self._geometry.rows, self._geometry.columns)
        outputs[0].reset_shape(shape, True)

    @silent
    def forward_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        y = data(outputs[0])
        self._sums.reduce(data(inputs[1]), data(inputs[0]), y, False)
        if len(inputs) == 3:
            y += data(inputs[2])[:, None, None]

    @silent
    def backward_impl(
        self,
        inputs: list[nn.Variable],
        outputs: list[nn.Variable],
        propagate_down: list[bool],
        accum: list[bool],
    ) -> None:
        dy = grad(outputs[0])
        if propagate_down[0]:
            self._sums.spread(data(inputs[1]), dy, grad(inputs[0]), accum[0])
        if propagate_down[1]:
            self._sums.learn(data(inputs[0]), dy, grad(inputs[1]), accum[1])
        if len(inputs) == 3 and propagate_down[2]:
            db: Floats = grad(inputs[2])
            total = dy.sum(axis=(0, 2, 3))
            db[...] = db + total if accum[2] else total


class _Deconvolution(_Layer):
    """The transpose of a convolution: its input is the small side."""

    @property
    def name(self) -> str:
        return "CpuDeconvolution"

    def setup_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        batch, out_channels, rows, columns = inputs[0].shape
        _, channels, kernel, _ = inputs[1].shape
        channels *= self._groups
        height, width = (self._stride * (n - 1) + kernel - 2 * self._pad for n in (rows, columns))
        self._sums = self._correlation(batch, channels, height, width, out_channels, kernel)
        outputs[0].reset_shape((batch, channels, height, width), True)

    @silent
    def forward_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        self._sums.spread(data(inputs[1]), data(inputs[0]), data(outputs[0]), False)

    @silent
    def backward_impl(
        self,
        inputs: list[nn.Variable],
        outputs: list[nn.Variable],
        propagate_down: list[bool],
        accum: list[bool],
    ) -> None:
        dy = grad(outputs[0])
        if propagate_down[0]:
            self._sums.reduce(data(inputs[1]), dy, grad(inputs[0]), accum[0])
        if propagate_down[1]:
            self._sums.learn(dy, data(inputs[0]), grad(inputs[1]), accum[1])
