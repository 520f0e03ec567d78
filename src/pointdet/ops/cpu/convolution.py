# SPDX-License-Identifier: Apache-2.0
"""Convolution and deconvolution with square kernels through NumPy's BLAS.

An image is unfolded in blocks of rows that fit the cache (im2col) and multiplied with the weights as a matrix.
"""

from __future__ import annotations

from collections.abc import Iterator

import nnabla as nn
import numpy as np
from nnabla.function import PythonFunction

from pointdet.ops.cpu.memory import Floats, data, grad, silent, workspace

BLOCK = 3 << 18  # values of an unfolded block: 3 MiB


def convolution(x: nn.Variable, w: nn.Variable, b: nn.Variable | None, pad: int, stride: int) -> nn.Variable:
    """As F.convolution: x (B, C, H, W), w (O, C, k, k), b (O,) or None."""
    inputs = [x, w] if b is None else [x, w, b]
    return _Convolution(nn.get_current_context(), pad, stride)(*inputs)


def deconvolution(x: nn.Variable, w: nn.Variable, pad: int, stride: int) -> nn.Variable:
    """As F.deconvolution: x (B, C, h, w), w (C, O, k, k)."""
    return _Deconvolution(nn.get_current_context(), pad, stride)(x, w)


class _Unfolding:
    """The geometry of one layer between its large maps (B, C, H, W) and its small ones (B, O, h, w)."""

    def __init__(
        self, batch: int, channels: int, height: int, width: int, kernel: int, pad: int, stride: int
    ) -> None:
        self.batch, self.channels, self.height, self.width = batch, channels, height, width
        self.kernel, self.pad, self.stride = kernel, pad, stride
        self.rows = (height + 2 * pad - kernel) // stride + 1
        self.columns = (width + 2 * pad - kernel) // stride + 1
        self.depth = channels * kernel * kernel
        self._direct = kernel == 1 and stride == 1 and pad == 0
        # Several small images make one block, a large image several.
        self._images = max(1, BLOCK // (self.depth * self.rows * self.columns))
        self._rows = max(1, BLOCK // (self.depth * self.columns)) if self._images == 1 else self.rows

    def apply(self, matrix: Floats, large: Floats, small: Floats, add: bool) -> None:
        """small (+)= matrix (O, C k k) @ unfolded large."""
        for images in self._groups():
            padded = self._padded(large[images])
            for rows in self._row_blocks():
                _multiply(matrix, self._unfold(padded, rows), small[images, :, rows], add)

    def correlate(self, small: Floats, large: Floats, total: Floats) -> None:
        """total (O, C k k) += small @ unfolded large, transposed: the gradient of the weights."""
        product = workspace("product", *total.shape)
        for images in self._groups():
            padded = self._padded(large[images])
            for rows in self._row_blocks():
                np.matmul(_matrix(small[images, :, rows]), self._unfold(padded, rows).T, out=product)
                total += product

    def fold(self, matrix: Floats, small: Floats, large: Floats, add: bool) -> None:
        """large (+)= the sum over cells of matrix (C k k, O) @ small: the way back of unfolding."""
        k, s, p = self.kernel, self.stride, self.pad
        for images in self._groups():
            if self._direct:
                for rows in self._row_blocks():
                    _multiply(matrix, _matrix(small[images, :, rows]), large[images, :, rows], add)
                continue
            total = self._padded_space("folded", len(small[images]))
            total[...] = 0
            for rows in self._row_blocks():
                cells = _matrix(small[images, :, rows])
                products = workspace("unfolded", self.depth, cells.shape[1])
                np.matmul(matrix, cells, out=products)
                parts = products.reshape(self.channels, k, k, total.shape[1], -1, self.columns)
                for y in range(k):
                    reached = slice(rows.start * s + y, (rows.stop - 1) * s + y + 1, s)
                    for x in range(k):
                        total[:, :, reached, x : x + (self.columns - 1) * s + 1 : s] += parts[:, y, x]
            inner = total[:, :, p : p + self.height, p : p + self.width].swapaxes(0, 1)
            if add:
                large[images] += inner
            else:
                large[images] = inner

    def _groups(self) -> Iterator[slice]:
        for first in range(0, self.batch, self._images):
            yield slice(first, min(first + self._images, self.batch))

    def _row_blocks(self) -> Iterator[slice]:
        for first in range(0, self.rows, self._rows):
            yield slice(first, min(first + self._rows, self.rows))

    def _padded(self, images: Floats) -> Floats:
        """(C, images, H + 2 pad, W + 2 pad): large maps with their borders of zeros."""
        if self.pad == 0 and len(images) == 1:
            return images.swapaxes(0, 1)
        space = self._padded_space("padded", len(images))
        p = self.pad
        if p:
            space[:, :, :p] = space[:, :, -p:] = 0
            space[:, :, :, :p] = space[:, :, :, -p:] = 0
        space[:, :, p : p + self.height, p : p + self.width] = images.swapaxes(0, 1)
        return space

    def _unfold(self, padded: Floats, rows: slice) -> Floats:
        """(C k k, cells): what the kernel sees at the cells of these rows."""
        if self._direct:
            return padded[:, :, rows].reshape(self.channels, -1)
        c_stride, b_stride, y_stride, x_stride = padded.strides
        k, s = self.kernel, self.stride
        shape = (self.channels, k, k, padded.shape[1], rows.stop - rows.start, self.columns)
        strides = (c_stride, y_stride, x_stride, b_stride, s * y_stride, s * x_stride)
        cells = workspace("unfolded", self.depth, shape[3] * shape[4] * shape[5])
        # As as_strided makes it, which takes longer than the copy of a small map.
        windows: Floats = np.ndarray(shape, np.float32, padded, rows.start * s * y_stride, strides)
        np.copyto(cells.reshape(shape), windows)
        return cells

    def _padded_space(self, name: str, images: int) -> Floats:
        return workspace(name, self.channels, images, self.height + 2 * self.pad, self.width + 2 * self.pad)


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
        self._geometry.correlate(small, large, dw.reshape(len(dw), -1))


class _Convolution(_Layer):
    @property
    def name(self) -> str:
        return "BlasConvolution"

    def setup_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        batch, channels, height, width = inputs[0].shape
        kernel = inputs[1].shape[2]
        self._geometry = _Unfolding(batch, channels, height, width, kernel, self._pad, self._stride)
        outputs[0].reset_shape((batch, inputs[1].shape[0], self._geometry.rows, self._geometry.columns), True)

    @silent
    def forward_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        x, w, y = data(inputs[0]), data(inputs[1]), data(outputs[0])
        self._geometry.apply(w.reshape(len(w), -1), x, y, False)
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
            self._input_gradient(data(inputs[1]), dy, grad(inputs[0]), accum[0])
        if propagate_down[1]:
            self._weight_gradient(dy, data(inputs[0]), grad(inputs[1]), accum[1])
        if len(inputs) == 3 and propagate_down[2]:
            db, total = grad(inputs[2]), dy.sum(axis=(0, 2, 3))
            db[...] = db + total if accum[2] else total

    def _input_gradient(self, w: Floats, dy: Floats, dx: Floats, add: bool) -> None:
        """dx (+)= the gradient of the images.

        For stride 1 it is a convolution itself, which is cheaper than folding unless dy has many more channels.
        """
        out_channels, channels, kernel, _ = w.shape
        if self._stride > 1 or kernel == 1 or out_channels > 2 * channels:
            self._geometry.fold(w.reshape(out_channels, -1).T, dy, dx, add)
            return
        batch, _, rows, columns = dy.shape
        geometry = _Unfolding(batch, out_channels, rows, columns, kernel, kernel - 1 - self._pad, 1)
        mirrored = np.ascontiguousarray(w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)).reshape(channels, -1)
        geometry.apply(mirrored, dy, dx, add)


class _Deconvolution(_Layer):
    """The transpose of a convolution: its input is the small side."""

    @property
    def name(self) -> str:
        return "BlasDeconvolution"

    def setup_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        batch, _, rows, columns = inputs[0].shape
        _, channels, kernel, _ = inputs[1].shape
        height, width = (self._stride * (n - 1) + kernel - 2 * self._pad for n in (rows, columns))
        self._geometry = _Unfolding(batch, channels, height, width, kernel, self._pad, self._stride)
        outputs[0].reset_shape((batch, channels, height, width), True)

    @silent
    def forward_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        x, w = data(inputs[0]), data(inputs[1])
        self._geometry.fold(w.reshape(len(w), -1).T, x, data(outputs[0]), False)

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
            w = data(inputs[1])
            self._geometry.apply(w.reshape(len(w), -1), dy, grad(inputs[0]), accum[0])
        if propagate_down[1]:
            self._weight_gradient(data(inputs[0]), dy, grad(inputs[1]), accum[1])


def _matrix(maps: Floats) -> Floats:
    """(images, O, rows, columns) -> (O, cells); a view where it can be."""
    if len(maps) == 1:
        return maps[0].reshape(maps.shape[1], -1)
    images, channels, rows, columns = maps.shape
    matrix = workspace("matrix", channels, images, rows, columns)
    matrix[...] = maps.swapaxes(0, 1)
    return matrix.reshape(channels, -1)


def _multiply(a: Floats, b: Floats, maps: Floats, add: bool) -> None:
    """maps (images, O, rows, columns) (+)= a @ b (., cells)."""
    if len(maps) == 1 and not add:
        np.matmul(a, b, out=maps[0].reshape(len(a), -1))
        return
    product = workspace("product", len(a), b.shape[1])
    np.matmul(a, b, out=product)
    values = product.reshape(len(a), len(maps), *maps.shape[2:]).swapaxes(0, 1)
    if add:
        maps += values
    else:
        maps[...] = values
