# SPDX-License-Identifier: Apache-2.0
"""Convolution primitives with NumPy's BLAS.

The images are unfolded (im2col) in blocks that fit the cache: one row for each cell of y, with the k x k cells of x
below the kernel. Each block is multiplied with the weights as a matrix.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pointdet.arrays import Float32Array
from pointdet.ops.cpu.memory import store, workspace, zeros
from pointdet.ops.cpu.primitives import ConvolutionShape, Epilogue

BLOCK = 3 << 17  # values of an unfolded block: 1.5 MiB


class BlasConvolution:
    """`ConvolutionPrimitives` without groups."""

    def __init__(self, shape: ConvolutionShape) -> None:
        if shape.groups > 1:
            raise ValueError("groups need onednn")
        self._shape = s = shape
        self._depth = s.kernel * s.kernel * s.channels
        self._pointwise = s.kernel == 1 and s.stride == 1 and s.pad == 0
        # A block holds several small images, or some rows of a large one.
        self._images = max(1, BLOCK // (self._depth * s.out_height * s.out_width))
        self._rows = max(1, BLOCK // (self._depth * s.out_width)) if self._images == 1 else s.out_height

    def forward(self, x: Float32Array, w: Float32Array, y: Float32Array, after: Epilogue) -> None:
        matrix = self._matrix(w)
        if after.scale is not None:
            matrix = matrix * after.scale
        for images, rows in self._blocks():
            out = y[images, rows]
            np.matmul(self._unfold(x, images, rows), matrix, out=_cells(out))
            if after.shift is not None:
                out += after.shift
            if after.shortcut is not None:
                out += after.shortcut[images, rows]
            if after.relu:
                np.maximum(out, zeros(*out.shape), out=out)  # three times as fast as with the number 0

    def backward_weights(self, x: Float32Array, dy: Float32Array, dw: Float32Array, accumulate: bool) -> None:
        s = self._shape
        total, product = (workspace(name, self._depth, s.out_channels) for name in ("weights", "product"))
        total[...] = 0
        for images, rows in self._blocks():
            np.matmul(self._unfold(x, images, rows).T, _cells(dy[images, rows]), out=product)
            total += product
        taps = total.reshape(s.kernel, s.kernel, s.channels, s.out_channels)
        store(dw, taps.transpose((3, 0, 1, 2) if s.weights_last else (3, 2, 0, 1)), accumulate)

    def backward_data(self, w: Float32Array, dy: Float32Array, dx: Float32Array, accumulate: bool) -> None:
        """The products that belong to one value of dx are summed (col2im)."""
        s = self._shape
        matrix = np.ascontiguousarray(self._matrix(w).T)
        if self._pointwise:
            for images, rows in self._blocks():
                cells = _cells(dy[images, rows])
                product = np.matmul(cells, matrix, out=workspace("unfolded", len(cells), self._depth))
                out = dx[images, rows]
                store(out, product.reshape(out.shape), accumulate)
            return
        k, stride, p, d = s.kernel, s.stride, s.pad, s.dilation
        for first in range(0, s.batch, self._images):
            images = slice(first, min(first + self._images, s.batch))
            padded = self._padded(images)
            padded[...] = 0
            for rows in self._row_blocks():
                cells = _cells(dy[images, rows])
                products = np.matmul(cells, matrix, out=workspace("unfolded", len(cells), self._depth))
                parts = products.reshape(len(padded), -1, s.out_width, k, k, s.channels)
                for y in range(k):
                    top, bottom = rows.start * stride + y * d, (rows.stop - 1) * stride + y * d
                    for x in range(k):
                        columns = slice(x * d, x * d + (s.out_width - 1) * stride + 1, stride)
                        padded[:, top : bottom + 1 : stride, columns] += parts[:, :, :, y, x]
            store(dx[images], padded[:, p : p + s.height, p : p + s.width], accumulate)

    def _matrix(self, w: Float32Array) -> Float32Array:
        """The weights as (k k C, O)."""
        taps = w if self._shape.weights_last else w.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(taps.reshape(len(w), -1).T)

    def _row_blocks(self) -> Iterator[slice]:
        for first in range(0, self._shape.out_height, self._rows):
            yield slice(first, min(first + self._rows, self._shape.out_height))

    def _blocks(self) -> Iterator[tuple[slice, slice]]:
        """Images and rows of y."""
        for first in range(0, self._shape.batch, self._images):
            for rows in self._row_blocks():
                yield slice(first, min(first + self._images, self._shape.batch)), rows

    def _padded(self, images: slice) -> Float32Array:
        s = self._shape
        count = images.stop - images.start
        return workspace("padded", count, s.height + 2 * s.pad, s.width + 2 * s.pad, s.channels)

    def _unfold(self, x: Float32Array, images: slice, rows: slice) -> Float32Array:
        """im2col for these images and rows of y: (cells, k k C)."""
        s = self._shape
        if self._pointwise:
            return _cells(x[images, rows])
        k, stride, d, p = s.kernel, s.stride, s.dilation, s.pad
        # The rows of x below the kernel, with a border of zeros.
        top, bottom = rows.start * stride - p, (rows.stop - 1) * stride + s.dilated_kernel - p
        padded = workspace(
            *("padded", images.stop - images.start, bottom - top, s.width + 2 * p, s.channels),
        )
        inner = slice(max(0, -top), min(bottom, s.height) - top)
        padded[:, : inner.start] = padded[:, inner.stop :] = 0
        padded[:, :, :p] = padded[:, :, p + s.width :] = 0
        padded[:, inner, p : p + s.width] = x[images, top + inner.start : top + inner.stop]
        b_step, y_step, x_step, c_step = padded.strides
        shape: tuple[int, ...] = (len(padded), rows.stop - rows.start, s.out_width, k, k, s.channels)
        strides: tuple[int, ...] = (b_step, stride * y_step, stride * x_step, d * y_step, d * x_step, c_step)
        # The array that as_strided would make. as_strided itself takes longer than the copy of a small map.
        columns = workspace("unfolded", *shape)
        if d == 1:  # the k cells of a row are together in memory
            shape, strides = (*shape[:4], k * s.channels), (*strides[:4], c_step)
        windows: Float32Array = np.ndarray(shape, np.float32, padded, 0, strides)
        np.copyto(columns.reshape(shape), windows)
        return columns.reshape(-1, self._depth)


def _cells(maps: Float32Array) -> Float32Array:
    """(images, rows, columns, O) -> (cells, O), a view: the rows of several images are never only a part of them."""
    return maps.reshape(-1, maps.shape[3])
