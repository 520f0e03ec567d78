# SPDX-License-Identifier: Apache-2.0
"""Upsampling of maps (B, H, W, C) as NNabla functions with NumPy."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import nnabla as nn
import numpy as np
from nnabla.function import PythonFunction

from pointdet.arrays import Float32Array
from pointdet.ops.cpu.memory import data, grad, silent, store
from pointdet.ops.cpu.process_state import function_context


def upsample_nearest(x: nn.Variable, factor: int) -> nn.Variable:
    """Every value becomes a square of factor x factor."""
    return _Nearest(function_context(), factor)(x)


def upsample_bilinear(x: nn.Variable, factor: int) -> nn.Variable:
    """Bilinear interpolation between the centres of the cells; beyond the outer centres the value is theirs."""
    return _Bilinear(function_context(), factor)(x)


class _Upsampling(PythonFunction):
    def __init__(self, ctx: nn.Context, factor: int) -> None:
        super().__init__(ctx)
        self._factor = factor

    def min_outputs(self) -> int:
        return 1

    def grad_depends_output_data(self, i: int, o: int) -> bool:
        return False

    def grad_depends_input_data(self, i: int, j: int) -> bool:
        return False

    def setup_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        batch, height, width, channels = inputs[0].shape
        outputs[0].reset_shape((batch, height * self._factor, width * self._factor, channels), True)

    @silent
    def forward_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        self._up(data(inputs[0]), data(outputs[0]))

    @silent
    def backward_impl(
        self,
        inputs: list[nn.Variable],
        outputs: list[nn.Variable],
        propagate_down: list[bool],
        accum: list[bool],
    ) -> None:
        if propagate_down[0]:
            store(grad(inputs[0]), self._down(grad(outputs[0])), accum[0])

    @abstractmethod
    def _up(self, x: Float32Array, y: Float32Array) -> None:
        """Write the upsampled map to y."""

    @abstractmethod
    def _down(self, dy: Float32Array) -> Float32Array:
        """The gradient of x."""


class _Nearest(_Upsampling):
    @property
    def name(self) -> str:
        return "CpuNearest"

    def _up(self, x: Float32Array, y: Float32Array) -> None:
        self._squares(y)[...] = x[:, :, None, :, None]

    def _down(self, dy: Float32Array) -> Float32Array:
        squares = self._squares(dy)
        total = np.zeros_like(squares[:, :, 0, :, 0])
        for row in range(self._factor):
            for column in range(self._factor):
                total += squares[:, :, row, :, column]
        return total

    def _squares(self, y: Float32Array) -> Float32Array:
        """(B, H, factor, W, factor, C), a view."""
        batch, height, width, channels = y.shape
        f = self._factor
        return y.reshape(batch, height // f, f, width // f, f, channels)


class _Bilinear(_Upsampling):
    @property
    def name(self) -> str:
        return "CpuBilinear"

    def _up(self, x: Float32Array, y: Float32Array) -> None:
        batch, height, width, channels = x.shape
        rows = np.empty((batch, height * self._factor, width, channels), np.float32)
        self._along(1, x, rows)
        self._along(2, rows, y)

    def _down(self, dy: Float32Array) -> Float32Array:
        return self._back(1, self._back(2, dy))

    def _along(self, axis: int, x: Float32Array, y: Float32Array) -> None:
        """Interpolate along one axis."""
        padded = np.concatenate([_ends(x, axis, 0), x, _ends(x, axis, -1)], axis)
        for phase, first, weight in self._phases():
            low, high = (_range(padded, axis, first + i, x.shape[axis]) for i in (0, 1))
            out = _phase(y, axis, phase, self._factor)
            np.multiply(high, weight, out=out)
            out += low * np.float32(1 - weight)

    def _back(self, axis: int, dy: Float32Array) -> Float32Array:
        """The gradient of `_along`."""
        shape = list(dy.shape)
        size = shape[axis] = shape[axis] // self._factor
        shape[axis] += 2
        padded = np.zeros(shape, np.float32)
        for phase, first, weight in self._phases():
            part = _phase(dy, axis, phase, self._factor)
            low, high = (_range(padded, axis, first + i, size) for i in (0, 1))
            low += part * np.float32(1 - weight)
            high += part * weight
        result = _range(padded, axis, 1, size)
        top, bottom = _range(result, axis, 0, 1), _range(result, axis, size - 1, 1)
        top += _range(padded, axis, 0, 1)
        bottom += _range(padded, axis, size + 1, 1)
        return result

    def _phases(self) -> Iterator[tuple[int, int, np.float32]]:
        """For each cell of y in a cell of x: its number, its first neighbour in the padded map, and the weight of
        the second."""
        for phase in range(self._factor):
            position = (phase + 0.5) / self._factor - 0.5
            first = int(np.floor(position))
            yield phase, first + 1, np.float32(position - first)


def _range(x: Float32Array, axis: int, start: int, length: int) -> Float32Array:
    return x[:, start : start + length] if axis == 1 else x[:, :, start : start + length]


def _ends(x: Float32Array, axis: int, index: int) -> Float32Array:
    return _range(x, axis, index % x.shape[axis], 1)


def _phase(y: Float32Array, axis: int, phase: int, factor: int) -> Float32Array:
    return y[:, phase::factor] if axis == 1 else y[:, :, phase::factor]
