# SPDX-License-Identifier: Apache-2.0
"""Convolution and deconvolution with square kernels as NNabla functions, with NumPy's BLAS or oneDNN."""

from __future__ import annotations

import nnabla as nn
from nnabla.function import PythonFunction

from pointdet.ops.cpu.blas import BlasConvolution, GroupedBlasConvolution
from pointdet.ops.cpu.memory import data, grad, silent, store
from pointdet.ops.cpu.onednn import shared_convolution
from pointdet.ops.cpu.primitives import ConvolutionPrimitives, ConvolutionShape
from pointdet.ops.cpu.process_state import function_context


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
    """Like F.convolution: x (B, C, H, W), w (O, C / groups, k, k), b (O,) or None.

    library: "blas" or "onednn".
    """
    inputs = [x, w] if b is None else [x, w, b]
    return _Convolution(function_context(), library, pad, stride, dilation, groups)(*inputs)


def deconvolution(
    x: nn.Variable, w: nn.Variable, *, pad: int, stride: int, groups: int = 1, library: str
) -> nn.Variable:
    """Like F.deconvolution: x (B, C, h, w), w (C, O / groups, k, k). library: "blas" or "onednn"."""
    return _Deconvolution(function_context(), library, pad, stride, 1, groups)(x, w)


def _make_primitives(shape: ConvolutionShape, library: str) -> ConvolutionPrimitives:
    if library == "onednn":
        return shared_convolution(shape)
    return GroupedBlasConvolution(shape) if shape.groups > 1 else BlasConvolution(shape)


class _Layer(PythonFunction):
    """Base class of both functions."""

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

    def _setup(
        self, batch: int, channels: int, height: int, width: int, out_channels: int, kernel: int
    ) -> ConvolutionShape:
        """Make the primitives. The sizes are those of the convolution, also for a deconvolution."""
        shape = ConvolutionShape(
            *(batch, channels, height, width, out_channels, kernel),
            *(self._pad, self._stride, self._dilation, self._groups),
        )
        self._primitives = _make_primitives(shape, self._library)
        return shape


class _Convolution(_Layer):
    @property
    def name(self) -> str:
        return "CpuConvolution"

    def setup_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        batch, channels, height, width = inputs[0].shape
        out_channels, _, kernel, _ = inputs[1].shape
        shape = self._setup(batch, channels, height, width, out_channels, kernel)
        outputs[0].reset_shape((batch, out_channels, shape.out_height, shape.out_width), True)

    @silent
    def forward_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        y = data(outputs[0])
        self._primitives.forward(data(inputs[0]), data(inputs[1]), y, False)
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
            self._primitives.backward_data(data(inputs[1]), dy, grad(inputs[0]), accum[0])
        if propagate_down[1]:
            self._primitives.backward_weights(data(inputs[0]), dy, grad(inputs[1]), accum[1])
        if len(inputs) == 3 and propagate_down[2]:
            store(grad(inputs[2]), dy.sum(axis=(0, 2, 3)), accum[2])


class _Deconvolution(_Layer):
    """The transpose of a convolution: its input and output have the shapes of the convolution's y and x."""

    @property
    def name(self) -> str:
        return "CpuDeconvolution"

    def setup_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        batch, out_channels, *input_size = inputs[0].shape
        _, channels, kernel, _ = inputs[1].shape
        channels *= self._groups
        height, width = (self._stride * (n - 1) + kernel - 2 * self._pad for n in input_size)
        self._setup(batch, channels, height, width, out_channels, kernel)
        outputs[0].reset_shape((batch, channels, height, width), True)

    @silent
    def forward_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        self._primitives.backward_data(data(inputs[1]), data(inputs[0]), data(outputs[0]), False)

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
            self._primitives.forward(dy, data(inputs[1]), grad(inputs[0]), accum[0])
        if propagate_down[1]:
            self._primitives.backward_weights(dy, data(inputs[0]), grad(inputs[1]), accum[1])
