# SPDX-License-Identifier: Apache-2.0
"""Sums, channel ranges and the layout of maps (B, H, W, C) as NNabla functions with NumPy or oneDNN."""

from __future__ import annotations

import nnabla as nn
import numpy as np
from nnabla.function import PythonFunction

from pointdet.ops.cpu.memory import data, grad, silent, store, workspace
from pointdet.ops.cpu.normalisation import add_relu
from pointdet.ops.cpu.process_state import function_context


def add(a: nn.Variable, b: nn.Variable, relu: bool, library: str) -> nn.Variable:
    """a + b of two maps, then ReLU if `relu`. library: "blas" (NumPy) or "onednn"."""
    return _Add(function_context(), relu, library)(a, b)


def split(x: nn.Variable, parts: int) -> list[nn.Variable]:
    """(B, H, W, C) -> `parts` maps (B, H, W, C / parts)."""
    if parts == 1:
        return [x]
    return list(_Split(function_context(), parts)(x, n_outputs=parts))


def to_first(x: nn.Variable) -> nn.Variable:
    """(B, H, W, C) -> (B, C, H, W)."""
    return _ToFirst(function_context())(x)


class _Function(PythonFunction):
    """Base class: the gradients need no data."""

    def min_outputs(self) -> int:
        return 1

    def grad_depends_output_data(self, i: int, o: int) -> bool:
        return False

    def grad_depends_input_data(self, i: int, j: int) -> bool:
        return False


class _Add(_Function):
    def __init__(self, ctx: nn.Context, relu: bool, library: str) -> None:
        super().__init__(ctx)
        self._relu, self._library = relu, library

    @property
    def name(self) -> str:
        return "CpuAdd"

    def grad_depends_output_data(self, i: int, o: int) -> bool:
        return self._relu

    def setup_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        outputs[0].reset_shape(inputs[0].shape, True)
        self._add_relu = add_relu(inputs[0].shape, self._library)

    @silent
    def forward_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        a, b, y = data(inputs[0]), data(inputs[1]), data(outputs[0])
        if self._relu:
            y[...] = a
            self._add_relu.forward(y, b)
        else:
            np.add(a, b, out=y)

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
            self._add_relu.backward(data(outputs[0]), dy, masked)
            dy = masked
        for variable, needed, accumulate in zip(inputs, propagate_down, accum, strict=True):
            if needed:
                store(grad(variable), dy, accumulate)


class _Split(_Function):
    def __init__(self, ctx: nn.Context, parts: int) -> None:
        super().__init__(ctx)
        self._parts = parts

    @property
    def name(self) -> str:
        return "CpuSplit"

    def min_outputs(self) -> int:
        return self._parts

    def setup_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        *cells, channels = inputs[0].shape
        for output in outputs:
            output.reset_shape((*cells, channels // self._parts), True)

    @silent
    def forward_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        parts = np.split(data(inputs[0]), self._parts, axis=3)
        for output, part in zip(outputs, parts, strict=True):
            data(output)[...] = part

    @silent
    def backward_impl(
        self,
        inputs: list[nn.Variable],
        outputs: list[nn.Variable],
        propagate_down: list[bool],
        accum: list[bool],
    ) -> None:
        if propagate_down[0]:
            parts = np.split(grad(inputs[0]), self._parts, axis=3)
            for output, part in zip(outputs, parts, strict=True):
                store(part, grad(output), accum[0])


class _ToFirst(_Function):
    @property
    def name(self) -> str:
        return "CpuToFirst"

    def setup_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        batch, height, width, channels = inputs[0].shape
        outputs[0].reset_shape((batch, channels, height, width), True)

    @silent
    def forward_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        data(outputs[0])[...] = data(inputs[0]).transpose(0, 3, 1, 2)

    @silent
    def backward_impl(
        self,
        inputs: list[nn.Variable],
        outputs: list[nn.Variable],
        propagate_down: list[bool],
        accum: list[bool],
    ) -> None:
        if propagate_down[0]:
            store(grad(inputs[0]), grad(outputs[0]).transpose(0, 2, 3, 1), accum[0])
