# SPDX-License-Identifier: Apache-2.0
"""Convolution primitives with NumPy's BLAS.

The images are unfolded (im2col) in blocks that fit the cache. Each block is multiplied with the weights as a
matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from pointdet.arrays import Float32Array
from pointdet.ops.cpu.memory import store, workspace
from pointdet.ops.cpu.primitives import ConvolutionShape

BLOCK = 3 << 18  # values of an unfolded block: 3 MiB


class GroupedBlasConvolution:
    """`ConvolutionPrimitives` with groups of channels: each group is a convolution of its own."""

    def __init__(self, shape: ConvolutionShape) -> None:
        self._groups = shape.groups
        channels, out_channels = shape.channels // shape.groups, shape.out_channels // shape.groups
        self._group = BlasConvolution(replace(shape, channels=channels, out_channels=out_channels, groups=1))

    def forward(self, x: Float32Array, w: Float32Array, y: Float32Array, accumulate: bool) -> None:
        for x_part, w_part, y_part in self._parts(x, w, y):
            self._group.forward(x_part, w_part, y_part, accumulate)

    def backward_data(self, w: Float32Array, dy: Float32Array, dx: Float32Array, accumulate: bool) -> None:
        for dx_part, w_part, dy_part in self._parts(dx, w, dy):
            self._group.backward_data(w_part, dy_part, dx_part, accumulate)

    def backward_weights(self, x: Float32Array, dy: Float32Array, dw: Float32Array, accumulate: bool) -> None:
        for x_part, dw_part, dy_part in self._parts(x, dw, dy):
            self._group.backward_weights(x_part, dy_part, dw_part, accumulate)

    def _parts(
        self, x: Float32Array, w: Float32Array, y: Float32Array
    ) -> Iterator[tuple[Float32Array, Float32Array, Float32Array]]:
        """The parts of x, w and y that belong to each group."""
        channels, out_channels = x.shape[1] // self._groups, y.shape[1] // self._groups
        for i in range(self._groups):
            outputs = slice(i * out_channels, (i + 1) * out_channels)
            yield x[:, i * channels : (i + 1) * channels], w[outputs], y[:, outputs]


class BlasConvolution:
    """`ConvolutionPrimitives` without groups."""

    def __init__(self, shape: ConvolutionShape) -> None:
        self._shape = s = shape
        self._depth = s.channels * s.kernel * s.kernel
        self._pointwise = s.kernel == 1 and s.stride == 1 and s.pad == 0
        # A block holds several small images, or some rows of a large one.
        self._images = max(1, BLOCK // (self._depth * s.out_height * s.out_width))
        self._rows = max(1, BLOCK // (self._depth * s.out_width)) if self._images == 1 else s.out_height
        self._transposed: BlasConvolution | None = None

    def forward(self, x: Float32Array, w: Float32Array, y: Float32Array, accumulate: bool) -> None:
        matrix = w.reshape(len(w), -1)
        for images in self._image_blocks():
            padded = self._pad(x[images])
            for rows in self._row_blocks():
                _multiply(matrix, self._unfold(padded, rows), y[images, :, rows], accumulate)

    def backward_weights(self, x: Float32Array, dy: Float32Array, dw: Float32Array, accumulate: bool) -> None:
        total = dw.reshape(len(dw), -1)
        if not accumulate:
            total[...] = 0
        product = workspace("product", *total.shape)
        for images in self._image_blocks():
            padded = self._pad(x[images])
            for rows in self._row_blocks():
                np.matmul(_matrix(dy[images, :, rows]), self._unfold(padded, rows).T, out=product)
                total += product

    def backward_data(self, w: Float32Array, dy: Float32Array, dx: Float32Array, accumulate: bool) -> None:
        # With stride 1 it is itself a convolution with the transposed weights. That costs less than folding,
        # except with many more output channels than input channels.
        s = self._shape
        pad = s.dilated_kernel - 1 - s.pad
        if s.stride > 1 or s.kernel == 1 or pad < 0 or s.out_channels > 2 * s.channels:
            self._fold(w.reshape(len(w), -1).T, dy, dx, accumulate)
            return
        if self._transposed is None:
            sizes = (s.batch, s.out_channels, s.out_height, s.out_width, s.channels)
            self._transposed = BlasConvolution(ConvolutionShape(*sizes, s.kernel, pad, 1, s.dilation))
        transposed = np.ascontiguousarray(w[:, :, ::-1, ::-1].swapaxes(0, 1))
        self._transposed.forward(dy, transposed, dx, accumulate)

    def _fold(self, matrix: Float32Array, dy: Float32Array, dx: Float32Array, accumulate: bool) -> None:
        """dx (+)= col2im of matrix (C k k, O) @ dy: products that belong to one value of dx are summed."""
        s = self._shape
        k, stride, p, d = s.kernel, s.stride, s.pad, s.dilation
        for images in self._image_blocks():
            if self._pointwise:
                for rows in self._row_blocks():
                    _multiply(matrix, _matrix(dy[images, :, rows]), dx[images, :, rows], accumulate)
                continue
            total = self._padded_space("folded", len(dy[images]))
            total[...] = 0
            for rows in self._row_blocks():
                block = _matrix(dy[images, :, rows])
                products = workspace("unfolded", self._depth, block.shape[1])
                np.matmul(matrix, block, out=products)
                parts = products.reshape(s.channels, k, k, total.shape[1], -1, s.out_width)
                for y in range(k):
                    first, last = rows.start * stride + y * d, (rows.stop - 1) * stride + y * d
                    for x in range(k):
                        columns = slice(x * d, x * d + (s.out_width - 1) * stride + 1, stride)
                        total[:, :, first : last + 1 : stride, columns] += parts[:, y, x]
            inner = total[:, :, p : p + s.height, p : p + s.width].swapaxes(0, 1)
            store(dx[images], inner, accumulate)

    def _image_blocks(self) -> Iterator[slice]:
        for first in range(0, self._shape.batch, self._images):
            yield slice(first, min(first + self._images, self._shape.batch))

    def _row_blocks(self) -> Iterator[slice]:
        for first in range(0, self._shape.out_height, self._rows):
            yield slice(first, min(first + self._rows, self._shape.out_height))

    def _pad(self, images: Float32Array) -> Float32Array:
        """(images, C, H, W) -> (C, images, H + 2 pad, W + 2 pad), padded with zeros."""
        s = self._shape
        p = s.pad
        if p == 0 and len(images) == 1:
            return images.swapaxes(0, 1)
        space = self._padded_space("padded", len(images))
        if p:
            space[:, :, :p] = space[:, :, -p:] = 0
            space[:, :, :, :p] = space[:, :, :, -p:] = 0
        space[:, :, p : p + s.height, p : p + s.width] = images.swapaxes(0, 1)
        return space

    def _unfold(self, padded: Float32Array, rows: slice) -> Float32Array:
        """im2col for these rows of the output: (C k k, output positions)."""
        s = self._shape
        if self._pointwise:
            return padded[:, :, rows].reshape(s.channels, -1)
        c_step, b_step, y_step, x_step = padded.strides
        k, stride, d = s.kernel, s.stride, s.dilation
        shape = (s.channels, k, k, padded.shape[1], rows.stop - rows.start, s.out_width)
        strides = (c_step, d * y_step, d * x_step, b_step, stride * y_step, stride * x_step)
        columns = workspace("unfolded", self._depth, shape[3] * shape[4] * shape[5])
        # The array that as_strided would make. as_strided itself takes longer than the copy of a small map.
        windows: Float32Array = np.ndarray(shape, np.float32, padded, rows.start * stride * y_step, strides)
        np.copyto(columns.reshape(shape), windows)
        return columns

    def _padded_space(self, name: str, images: int) -> Float32Array:
        s = self._shape
        return workspace(name, s.channels, images, s.height + 2 * s.pad, s.width + 2 * s.pad)


def _matrix(maps: Float32Array) -> Float32Array:
    """(images, O, rows, columns) -> (O, positions), a view if possible."""
    if len(maps) == 1:
        return maps[0].reshape(maps.shape[1], -1)
    images, channels, rows, columns = maps.shape
    matrix = workspace("matrix", channels, images, rows, columns)
    matrix[...] = maps.swapaxes(0, 1)
    return matrix.reshape(channels, -1)


def _multiply(a: Float32Array, b: Float32Array, maps: Float32Array, accumulate: bool) -> None:
    """maps (images, O, rows, columns) (+)= a @ b (., positions)."""
    if len(maps) == 1 and not accumulate:
        np.matmul(a, b, out=maps[0].reshape(len(a), -1))
        return
    product = workspace("product", len(a), b.shape[1])
    np.matmul(a, b, out=product)
    store(maps, product.reshape(len(a), len(maps), *maps.shape[2:]).swapaxes(0, 1), accumulate)
