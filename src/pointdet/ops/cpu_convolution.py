# SPDX-License-Identifier: Apache-2.0
"""Convolution and deconvolution on a CPU through NumPy's BLAS: float32, NCHW, square kernels.

NNabla's CPU wheels are built without vector instructions and BLAS; these functions do the same several times faster.
An image is unfolded in blocks of rows that fit the cache (im2col) and multiplied with the weights as a matrix. A saved
graph cannot hold Python functions, so graphs for export are built from NNabla's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ContextDecorator
from typing import cast

import nnabla as nn
import numpy as np
import numpy.typing as npt
from nnabla.function import PythonFunction

Floats = npt.NDArray[np.float32]

BLOCK = 3 << 18  # values of an unfolded block: 3 MiB

# A diverging training is noticed at its loss; here it would only be a warning for every layer.
_silent = cast(ContextDecorator, np.errstate(over="ignore", invalid="ignore"))

# Work space, kept and shared by all layers: fresh memory costs more than the copy into it. One graph runs at a time.
_space: dict[str, Floats] = {}


def convolution(x: nn.Variable, w: nn.Variable, b: nn.Variable | None, pad: int, stride: int) -> nn.Variable:
    """As F.convolution: x (B, C, H, W), w (O, C, k, k), b (O,) or None."""
    inputs = [x, w] if b is None else [x, w, b]
    return _Convolution(nn.get_current_context(), pad, stride)(*inputs)


def deconvolution(x: nn.Variable, w: nn.Variable, pad: int, stride: int) -> nn.Variable:
    """As F.deconvolution: x (B, C, h, w), w (C, O, k, k)."""
    return _Deconvolution(nn.get_current_context(), pad, stride)(x, w)


class _Unfolding:
    """The geometry of one layer between its large map (C, H, W) and its small one (h, w)."""

    def __init__(self, channels: int, height: int, width: int, kernel: int, pad: int, stride: int) -> None:
        self.channels, self.height, self.width = channels, height, width
        self.kernel, self.pad, self.stride = kernel, pad, stride
        self.rows = (height + 2 * pad - kernel) // stride + 1
        self.columns = (width + 2 * pad - kernel) // stride + 1
        self.depth = channels * kernel * kernel
        self._direct = kernel == 1 and stride == 1 and pad == 0

    def blocks(self) -> Iterator[tuple[int, int]]:
        """First and last row + 1 of each block of the small map."""
        step = max(1, BLOCK // (self.depth * self.columns))
        for first in range(0, self.rows, step):
            yield first, min(first + step, self.rows)

    def padded(self, image: Floats) -> Floats:
        """A large map (C, H, W) with its border of zeros."""
        if self.pad == 0:
            return image
        space = self._padded_space("padded")
        p = self.pad
        space[:, :p] = space[:, -p:] = 0
        space[:, :, :p] = space[:, :, -p:] = 0
        space[:, p:-p, p:-p] = image
        return space

    def unfold(self, padded: Floats, first: int, last: int) -> Floats:
        """(C k k, cells): what the kernel sees at the cells of rows first to last."""
        if self._direct:
            return padded.reshape(self.channels, -1)[:, first * self.columns : last * self.columns]
        c_stride, y_stride, x_stride = padded.strides
        k, s = self.kernel, self.stride
        windows = np.lib.stride_tricks.as_strided(
            padded[:, first * s :],
            (self.channels, k, k, last - first, self.columns),
            (c_stride, y_stride, x_stride, s * y_stride, s * x_stride),
            writeable=False,
        )
        cells = _workspace("unfolded", self.depth, (last - first) * self.columns)
        np.copyto(cells.reshape(windows.shape), windows)
        return cells

    def fold(self, matrix: Floats, small: Floats, large: Floats, add: bool) -> None:
        """large (C, H, W) (+)= the sum over cells of matrix (C k k, O) @ small (O, h w): the way back of `unfold`."""
        if self._direct:
            _multiply(matrix, small, large.reshape(self.channels, -1), add)
            return
        total = self._padded_space("folded")
        total[...] = 0
        k, s = self.kernel, self.stride
        for first, last in self.blocks():
            cells = _workspace("unfolded", self.depth, (last - first) * self.columns)
            np.matmul(matrix, small[:, first * self.columns : last * self.columns], out=cells)
            parts = cells.reshape(self.channels, k, k, last - first, self.columns)
            for y in range(k):
                rows = slice(first * s + y, (last - 1) * s + y + 1, s)
                for x in range(k):
                    total[:, rows, x : x + (self.columns - 1) * s + 1 : s] += parts[:, y, x]
        p = self.pad
        inner = total[:, p : p + self.height, p : p + self.width]
        if add:
            large += inner
        else:
            large[...] = inner

    def apply(self, matrix: Floats, large: Floats, small: Floats, add: bool) -> None:
        """small (O, h, w) (+)= matrix (O, C k k) @ unfolded large (C, H, W)."""
        flat, padded = small.reshape(len(small), -1), self.padded(large)
        for first, last in self.blocks():
            cells = slice(first * self.columns, last * self.columns)
            _multiply(matrix, self.unfold(padded, first, last), flat[:, cells], add)

    def correlate(self, small: Floats, large: Floats, total: Floats) -> None:
        """total (O, C k k) += small (O, h, w) @ unfolded large (C, H, W) transposed: the gradient of the weights."""
        flat, padded = small.reshape(len(small), -1), self.padded(large)
        for first, last in self.blocks():
            cells = slice(first * self.columns, last * self.columns)
            _multiply(flat[:, cells], self.unfold(padded, first, last).T, total, True)

    def _padded_space(self, name: str) -> Floats:
        height, width = self.height + 2 * self.pad, self.width + 2 * self.pad
        return _workspace(name, self.channels, height * width).reshape(self.channels, height, width)


class _Layer(PythonFunction):
    """What both functions share: a geometry between a large side, which is unfolded, and a small side."""

    def __init__(self, ctx: nn.Context, pad: int, stride: int) -> None:
        super().__init__(ctx)
        self._pad, self._stride = pad, stride

    def min_outputs(self) -> int:
        return 1

    def grad_depends_output_data(self, i: int, o: int) -> bool:
        return False

    def grad_depends_input_data(self, i: int, j: int) -> bool:
        return {i, j} == {0, 1}

    def _weight_gradient(self, small: Floats, large: Floats, dw: Floats, add: bool) -> None:
        """dw (+)= the sum over the batch of what `correlate` makes of the two sides."""
        if not add:
            dw[...] = 0
        for one, other in zip(small, large, strict=True):
            self._geometry.correlate(one, other, dw.reshape(len(dw), -1))


class _Convolution(_Layer):
    @property
    def name(self) -> str:
        return "BlasConvolution"

    def setup_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        batch, channels, height, width = inputs[0].shape
        kernel = inputs[1].shape[2]
        self._geometry = _Unfolding(channels, height, width, kernel, self._pad, self._stride)
        outputs[0].reset_shape((batch, inputs[1].shape[0], self._geometry.rows, self._geometry.columns), True)

    @_silent
    def forward_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        x, w, y = _data(inputs[0]), _data(inputs[1]), _data(outputs[0])
        for image, result in zip(x, y, strict=True):
            self._geometry.apply(w.reshape(len(w), -1), image, result, False)
        if len(inputs) == 3:
            y += _data(inputs[2])[:, None, None]

    @_silent
    def backward_impl(
        self,
        inputs: list[nn.Variable],
        outputs: list[nn.Variable],
        propagate_down: list[bool],
        accum: list[bool],
    ) -> None:
        dy = _grad(outputs[0])
        if propagate_down[0]:
            self._input_gradient(_data(inputs[1]), dy, _grad(inputs[0]), accum[0])
        if propagate_down[1]:
            self._weight_gradient(dy, _data(inputs[0]), _grad(inputs[1]), accum[1])
        if len(inputs) == 3 and propagate_down[2]:
            db, total = _grad(inputs[2]), dy.sum(axis=(0, 2, 3))
            db[...] = db + total if accum[2] else total

    def _input_gradient(self, w: Floats, dy: Floats, dx: Floats, add: bool) -> None:
        """dx (+)= the gradient of the images. For stride 1 it is a convolution itself: cheaper than folding."""
        if self._stride > 1 or w.shape[2] == 1:
            for gradient, result in zip(dy, dx, strict=True):
                flat = gradient.reshape(len(gradient), -1)
                self._geometry.fold(w.reshape(len(w), -1).T, flat, result, add)
            return
        out_channels, channels, kernel, _ = w.shape
        rows, columns = dy.shape[2:]
        geometry = _Unfolding(out_channels, rows, columns, kernel, kernel - 1 - self._pad, 1)
        mirrored = np.ascontiguousarray(w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)).reshape(channels, -1)
        for gradient, result in zip(dy, dx, strict=True):
            geometry.apply(mirrored, gradient, result, add)


class _Deconvolution(_Layer):
    """The transpose of a convolution: its input is the small side."""

    @property
    def name(self) -> str:
        return "BlasDeconvolution"

    def setup_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        batch, _, rows, columns = inputs[0].shape
        _, channels, kernel, _ = inputs[1].shape
        height, width = (self._stride * (n - 1) + kernel - 2 * self._pad for n in (rows, columns))
        self._geometry = _Unfolding(channels, height, width, kernel, self._pad, self._stride)
        outputs[0].reset_shape((batch, channels, height, width), True)

    @_silent
    def forward_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        x, w = _data(inputs[0]), _data(inputs[1])
        for image, result in zip(x, _data(outputs[0]), strict=True):
            self._geometry.fold(w.reshape(len(w), -1).T, image.reshape(len(image), -1), result, False)

    @_silent
    def backward_impl(
        self,
        inputs: list[nn.Variable],
        outputs: list[nn.Variable],
        propagate_down: list[bool],
        accum: list[bool],
    ) -> None:
        dy = _grad(outputs[0])
        if propagate_down[0]:
            dx, w = _grad(inputs[0]), _data(inputs[1])
            for gradient, result in zip(dy, dx, strict=True):
                self._geometry.apply(w.reshape(len(w), -1), gradient, result, accum[0])
        if propagate_down[1]:
            self._weight_gradient(_data(inputs[0]), dy, _grad(inputs[1]), accum[1])


def _multiply(a: Floats, b: Floats, out: Floats, add: bool) -> None:
    """out (+)= a @ b."""
    if add:
        product = _workspace("product", *out.shape)
        np.matmul(a, b, out=product)
        out += product
    else:
        np.matmul(a, b, out=out)


def _workspace(name: str, rows: int, columns: int) -> Floats:
    """(rows, columns) of kept memory; its content is garbage."""
    size = rows * columns
    if name not in _space or _space[name].size < size:
        _space[name] = np.empty(size, np.float32)
    return _space[name][:size].reshape(rows, columns)


def _data(variable: nn.Variable) -> Floats:
    return variable.data.cast(np.float32)


def _grad(variable: nn.Variable) -> Floats:
    return variable.grad.cast(np.float32)
