# SPDX-License-Identifier: Apache-2.0
"""Convolution and deconvolution with square kernels as NNabla functions, with NumPy's BLAS or oneDNN."""

from __future__ import annotations

from dataclasses import dataclass

import nnabla as nn
import numpy as np
from nnabla.function import PythonFunction

from pointdet.ops.cpu.blas import BlasConvolution
from pointdet.ops.cpu.memory import data, grad, silent, store, workspace
from pointdet.ops.cpu.normalisation import add_relu
from pointdet.ops.cpu.onednn_convolution import shared_convolution
from pointdet.ops.cpu.primitives import ConvolutionPrimitives, ConvolutionShape, Epilogue
from pointdet.ops.cpu.process_state import function_context


@dataclass(frozen=True)
class Geometry:
    """How the kernel moves, the layout of the weights, and the library that computes."""

    pad: int
    library: str  # "blas" or "onednn"
    stride: int = 1
    dilation: int = 1
    groups: int = 1  # "onednn" only
    weights_last: bool = False  # the layout of w: (O, k, k, C / groups) instead of (O, C / groups, k, k)

    def primitives(self, shape: ConvolutionShape) -> ConvolutionPrimitives:
        return shared_convolution(shape) if self.library == "onednn" else BlasConvolution(shape)

    def shape(self, maps: tuple[int, ...], w: tuple[int, ...]) -> ConvolutionShape:
        """Of a convolution of `maps`, the shape of x (B, H, W, C), with weights of shape `w`."""
        batch, height, width, channels = maps
        return ConvolutionShape(
            *(batch, channels, height, width, w[0], w[2]),
            *(self.pad, self.stride, self.dilation, self.groups, self.weights_last),
        )


def convolution(
    x: nn.Variable, w: nn.Variable, b: nn.Variable | None, geometry: Geometry, relu: bool = False
) -> nn.Variable:
    """Like F.convolution, then ReLU if `relu`: x (B, H, W, C), w see `Geometry`, b (O,) or None."""
    inputs = [x, w] if b is None else [x, w, b]
    return _Convolution(function_context(), geometry, relu)(*inputs)


def normalised_convolution(
    x: nn.Variable,
    w: nn.Variable,
    parameters: list[nn.Variable],
    geometry: Geometry,
    *,
    eps: float,
    shortcut: nn.Variable | None,
    relu: bool,
) -> nn.Variable:
    """Convolution, batch normalisation with running statistics, sum with `shortcut`, ReLU, in one pass.

    For inference: it has no gradients. `parameters`: beta, gamma, mean and var, each with O values. The shapes are
    those of `convolution`; that of `shortcut` is the output's.
    """
    inputs = [x] if shortcut is None else [x, shortcut]
    return _NormalisedConvolution(function_context(), geometry, relu, eps, w, parameters)(*inputs)


def deconvolution(x: nn.Variable, w: nn.Variable, geometry: Geometry) -> nn.Variable:
    """Like F.deconvolution: x (B, h, w, C), w (C, O / groups, k, k) or (C, k, k, O / groups)."""
    return _Deconvolution(function_context(), geometry)(x, w)


class _Layer(PythonFunction):
    """Base class of the functions."""

    def __init__(self, ctx: nn.Context, geometry: Geometry, relu: bool = False) -> None:
        super().__init__(ctx)
        self._geometry, self._relu = geometry, relu

    def min_outputs(self) -> int:
        return 1

    def grad_depends_output_data(self, i: int, o: int) -> bool:
        return self._relu

    def grad_depends_input_data(self, i: int, j: int) -> bool:
        return {i, j} == {0, 1}

    def setup_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        shape = self._geometry.shape(inputs[0].shape, inputs[1].shape)
        self._primitives = self._geometry.primitives(shape)
        y = (shape.batch, shape.out_height, shape.out_width, shape.out_channels)
        outputs[0].reset_shape(y, True)


class _Convolution(_Layer):
    @property
    def name(self) -> str:
        return "CpuConvolution"

    @silent
    def forward_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        after = Epilogue(shift=data(inputs[2]) if len(inputs) == 3 else None, relu=self._relu)
        self._primitives.forward(data(inputs[0]), data(inputs[1]), data(outputs[0]), after)

    @silent
    def backward_impl(
        self,
        inputs: list[nn.Variable],
        outputs: list[nn.Variable],
        propagate_down: list[bool],
        accum: list[bool],
    ) -> None:
        dy = grad(outputs[0])
        if self._relu:
            masked = workspace("masked", *dy.shape)
            add_relu(dy.shape, self._geometry.library).backward(data(outputs[0]), dy, masked)
            dy = masked
        if propagate_down[0]:
            self._primitives.backward_data(data(inputs[1]), dy, grad(inputs[0]), accum[0])
        if propagate_down[1]:
            self._primitives.backward_weights(data(inputs[0]), dy, grad(inputs[1]), accum[1])
        if len(inputs) == 3 and propagate_down[2]:
            store(grad(inputs[2]), dy.sum(axis=(0, 1, 2)), accum[2])


class _NormalisedConvolution(_Layer):
    """The parameters are no inputs: NNabla asks for every pair of inputs what the gradient needs, in each pass."""

    def __init__(
        self,
        ctx: nn.Context,
        geometry: Geometry,
        relu: bool,
        eps: float,
        w: nn.Variable,
        parameters: list[nn.Variable],
    ) -> None:
        super().__init__(ctx, geometry, relu)
        self._eps, self._w, self._norm = eps, w, parameters

    @property
    def name(self) -> str:
        return "CpuNormalisedConvolution"

    def setup_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        super().setup_impl([inputs[0], self._w], outputs)

    @silent
    def forward_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        x, *rest = (data(variable) for variable in inputs)
        beta, gamma, mean, var = (data(variable).reshape(-1) for variable in self._norm)
        scale = gamma / np.sqrt(var + np.float32(self._eps))
        after = Epilogue(scale, beta - mean * scale, rest[0] if rest else None, self._relu)
        self._primitives.forward(x, data(self._w), data(outputs[0]), after)

    def backward_impl(self, *_: object) -> None:
        raise RuntimeError("a graph for inference has no backward pass")


class _Deconvolution(_Layer):
    """The transpose of a convolution: its input and output have the shapes of the convolution's y and x."""

    @property
    def name(self) -> str:
        return "CpuDeconvolution"

    def setup_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        g, w = self._geometry, inputs[1].shape
        batch, *input_size, _ = inputs[0].shape
        height, width = (g.stride * (n - 1) + w[2] - 2 * g.pad for n in input_size)
        y = (batch, height, width, g.groups * w[3 if g.weights_last else 1])
        self._primitives = g.primitives(g.shape(y, w))
        outputs[0].reset_shape(y, True)

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
            dx = grad(inputs[0])
            target = workspace("sum", *dx.shape) if accum[0] else dx
            self._primitives.forward(dy, data(inputs[1]), target, Epilogue())
            if accum[0]:
                dx += target
        if propagate_down[1]:
            self._primitives.backward_weights(dy, data(inputs[0]), grad(inputs[1]), accum[1])
