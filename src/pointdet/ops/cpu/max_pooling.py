# SPDX-License-Identifier: Apache-2.0
"""Max pooling of maps (B, H, W, C) as an NNabla function, with NumPy or oneDNN 3.x."""

from __future__ import annotations

from collections.abc import Iterator
from ctypes import c_int, c_void_p
from functools import cached_property
from typing import Protocol

import nnabla as nn
import numpy as np
from nnabla.function import PythonFunction

from pointdet.arrays import Float32Array
from pointdet.ops.cpu.memory import data, grad, silent, store, workspace
from pointdet.ops.cpu.onednn_library import Handle, attributes, dimensions, library, map_layout
from pointdet.ops.cpu.onednn_primitive import Operand, Primitive
from pointdet.ops.cpu.process_state import function_context

FORWARD_TRAINING, MAXIMUM = 64, 0x1FF
SRC, DST, WORKSPACE, DIFF_SRC, DIFF_DST = 1, 17, 64, 129, 145
WORKSPACE_QUERY = 135


def max_pooling(x: nn.Variable, *, kernel: int, stride: int, pad: int, library: str) -> nn.Variable:
    """Like F.max_pooling with square windows: x (B, H, W, C). The first of equal values gets the gradient.

    library: "blas" (NumPy) or "onednn".
    """
    return _MaxPooling(function_context(), kernel, stride, pad, library)(x)


class _Pooling(Protocol):
    def forward(self, x: Float32Array, y: Float32Array) -> None: ...

    def backward(self, x: Float32Array, y: Float32Array, dy: Float32Array, dx: Float32Array) -> None:
        """Replace dx."""


class _MaxPooling(PythonFunction):
    def __init__(self, ctx: nn.Context, kernel: int, stride: int, pad: int, library: str) -> None:
        super().__init__(ctx)
        self._window, self._library = (kernel, stride, pad), library

    @property
    def name(self) -> str:
        return "CpuMaxPooling"

    def min_outputs(self) -> int:
        return 1

    def grad_depends_output_data(self, i: int, o: int) -> bool:
        return True

    def grad_depends_input_data(self, i: int, j: int) -> bool:
        return True

    def setup_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        kernel, stride, pad = self._window
        batch, *sides, channels = inputs[0].shape
        y = (batch, *((side + 2 * pad - kernel) // stride + 1 for side in sides), channels)
        outputs[0].reset_shape(y, True)
        kind = OneDnnMaxPooling if self._library == "onednn" else NumpyMaxPooling
        self._pooling: _Pooling = kind(inputs[0].shape, y, *self._window)

    @silent
    def forward_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        self._pooling.forward(data(inputs[0]), data(outputs[0]))

    @silent
    def backward_impl(
        self,
        inputs: list[nn.Variable],
        outputs: list[nn.Variable],
        propagate_down: list[bool],
        accum: list[bool],
    ) -> None:
        dx = grad(inputs[0])
        target = workspace("sum", *dx.shape) if accum[0] else dx
        self._pooling.backward(data(inputs[0]), data(outputs[0]), grad(outputs[0]), target)
        if accum[0]:
            store(dx, target, True)


class NumpyMaxPooling:
    def __init__(self, x: tuple[int, ...], y: tuple[int, ...], kernel: int, stride: int, pad: int) -> None:
        self._x, self._y, self._kernel, self._stride, self._pad = x, y, kernel, stride, pad

    def forward(self, x: Float32Array, y: Float32Array) -> None:
        y[...] = -np.inf
        for cells, taps in self._taps():
            np.maximum(y[cells], x[taps], out=y[cells])

    def backward(self, x: Float32Array, y: Float32Array, dy: Float32Array, dx: Float32Array) -> None:
        dx[...] = 0
        left = np.ones(y.shape, np.bool_)  # the maximum was not yet found
        for cells, taps in self._taps():
            found = (x[taps] == y[cells]) & left[cells]
            left[cells] ^= found
            dx[taps] += dy[cells] * found

    def _taps(self) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
        """For each position of the window: the cells of y whose window has it inside x, and these cells of x."""
        rows, columns = (list(self._along(axis)) for axis in (1, 2))
        for y_rows, x_rows in rows:
            for y_columns, x_columns in columns:
                yield (slice(None), y_rows, y_columns), (slice(None), x_rows, x_columns)

    def _along(self, axis: int) -> Iterator[tuple[slice, slice]]:
        for tap in range(self._kernel):
            shift = tap - self._pad
            first = max(0, -(shift // self._stride))
            last = min(self._y[axis] - 1, (self._x[axis] - 1 - shift) // self._stride)
            if last >= first:
                start = first * self._stride + shift
                stop = last * self._stride + shift + 1
                yield slice(first, last + 1), slice(start, stop, self._stride)


class OneDnnMaxPooling:
    def __init__(self, x: tuple[int, ...], y: tuple[int, ...], kernel: int, stride: int, pad: int) -> None:
        self._x, self._y = map_layout(x), map_layout(y)
        steps = [dimensions((n, n)) for n in (stride, kernel, 0, pad)]
        # A last window that leaves x at the other side: the library needs the exact padding there.
        after = [stride * (b - 1) + kernel - pad - a for a, b in zip(x[1:3], y[1:3], strict=True)]
        self._steps = (*steps, dimensions(after))
        # Which cell of each window is the maximum.
        self._mask = np.empty(library().size(self._places) // 4 + 1, np.float32)

    def forward(self, x: Float32Array, y: Float32Array) -> None:
        self._forward(x, y, self._mask)

    def backward(self, x: Float32Array, y: Float32Array, dy: Float32Array, dx: Float32Array) -> None:
        self._backward(dy, dx, self._mask)

    @cached_property
    def _description(self) -> Handle:
        create = "dnnl_pooling_forward_primitive_desc_create"
        kind = (library().engine, c_int(FORWARD_TRAINING), c_int(MAXIMUM), self._x, self._y)
        return Handle("primitive_desc", create, *kind, *self._steps, attributes())

    @property
    def _places(self) -> c_void_p:
        return library().layout(self._description, WORKSPACE_QUERY)

    @cached_property
    def _forward(self) -> Primitive:
        return Primitive(
            self._description,
            [
                Operand(SRC, self._x),
                Operand(DST, self._y, written=True),
                Operand(WORKSPACE, self._places, written=True),
            ],
        )

    @cached_property
    def _backward(self) -> Primitive:
        create = "dnnl_pooling_backward_primitive_desc_create"
        kind = (library().engine, c_int(MAXIMUM), self._x, self._y)
        description = Handle("primitive_desc", create, *kind, *self._steps, self._description, attributes())
        return Primitive(
            description,
            [
                Operand(DIFF_DST, self._y),
                Operand(DIFF_SRC, self._x, written=True),
                Operand(WORKSPACE, self._places),
            ],
        )
