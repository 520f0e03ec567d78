# SPDX-License-Identifier: Apache-2.0
"""Correlations through NumPy's BLAS.

Images are unfolded in blocks that fit the cache (im2col) and multiplied with the kernel as a matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from pointdet.ops.cpu.correlation import Geometry
from pointdet.ops.cpu.memory import Floats, workspace

BLOCK = 3 << 18  # values of an unfolded block: 3 MiB


class Grouped:
    """`Correlation` whose channels fall into groups that know nothing of each other."""

    def __init__(self, geometry: Geometry) -> None:
        g = self._geometry = geometry
        channels, out_channels = g.channels // g.groups, g.out_channels // g.groups
        self._group = Blas(replace(g, channels=channels, out_channels=out_channels, groups=1))

    def reduce(self, kernel: Floats, large: Floats, small: Floats, add: bool) -> None:
        for kernel_part, large_part, small_part in self._parts(kernel, large, small):
            self._group.reduce(kernel_part, large_part, small_part, add)

    def spread(self, kernel: Floats, small: Floats, large: Floats, add: bool) -> None:
        for kernel_part, large_part, small_part in self._parts(kernel, large, small):
            self._group.spread(kernel_part, small_part, large_part, add)

    def learn(self, large: Floats, small: Floats, kernel: Floats, add: bool) -> None:
        for kernel_part, large_part, small_part in self._parts(kernel, large, small):
            self._group.learn(large_part, small_part, kernel_part, add)

    def _parts(self, kernel: Floats, large: Floats, small: Floats) -> Iterator[tuple[Floats, Floats, Floats]]:
        groups = self._geometry.groups
        width, out_width = large.shape[1] // groups, small.shape[1] // groups
        for i in range(groups):
            here = slice(i * out_width, (i + 1) * out_width)
            yield kernel[here], large[:, i * width : (i + 1) * width], small[:, here]


class Blas:
    """`Correlation` of one geometry without groups."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = g = geometry
        self._depth = g.channels * g.kernel * g.kernel
        self._direct = g.kernel == 1 and g.stride == 1 and g.pad == 0
        # Several small images make one block, a large image several.
        self._images = max(1, BLOCK // (self._depth * g.rows * g.columns))
        self._rows = max(1, BLOCK // (self._depth * g.columns)) if self._images == 1 else g.rows
        self._mirrored: Blas | None = None

    def reduce(self, kernel: Floats, large: Floats, small: Floats, add: bool) -> None:
        matrix = kernel.reshape(len(kernel), -1)
        for images in self._groups():
            padded = self._padded(large[images])
            for rows in self._row_blocks():
                _multiply(matrix, self._unfold(padded, rows), small[images, :, rows], add)

    def learn(self, large: Floats, small: Floats, kernel: Floats, add: bool) -> None:
        total = kernel.reshape(len(kernel), -1)
        if not add:
            total[...] = 0
        product = workspace("product", *total.shape)
        for images in self._groups():
            padded = self._padded(large[images])
            for rows in self._row_blocks():
                np.matmul(_matrix(small[images, :, rows]), self._unfold(padded, rows).T, out=product)
                total += product

    def spread(self, kernel: Floats, small: Floats, large: Floats, add: bool) -> None:
        # For stride 1 it is a correlation itself, which costs less than folding unless there are many small maps.
        g = self._geometry
        pad = g.reach - 1 - g.pad
        if g.stride > 1 or g.kernel == 1 or pad < 0 or g.out_channels > 2 * g.channels:
            self._fold(kernel.reshape(len(kernel), -1).T, small, large, add)
            return
        if self._mirrored is None:
            maps = (g.batch, g.out_channels, g.rows, g.columns, g.channels)
            self._mirrored = Blas(Geometry(*maps, g.kernel, pad, 1, g.dilation))
        mirrored = np.ascontiguousarray(kernel[:, :, ::-1, ::-1].swapaxes(0, 1))
        self._mirrored.reduce(mirrored, small, large, add)

    def _fold(self, matrix: Floats, small: Floats, large: Floats, add: bool) -> None:
        """large (+)= the sum over cells of matrix (C k k, O) @ small: the way back of unfolding."""
        g = self._geometry
        k, s, p, d = g.kernel, g.stride, g.pad, g.dilation
        for images in self._groups():
            if self._direct:
                for rows in self._row_blocks():
                    _multiply(matrix, _matrix(small[images, :, rows]), large[images, :, rows], add)
                continue
            total = self._padded_space("folded", len(small[images]))
            total[...] = 0
            for rows in self._row_blocks():
                cells = _matrix(small[images, :, rows])
                products = workspace("unfolded", self._depth, cells.shape[1])
                np.matmul(matrix, cells, out=products)
                parts = products.reshape(g.channels, k, k, total.shape[1], -1, g.columns)
                for y in range(k):
                    reached = slice(rows.start * s + y * d, (rows.stop - 1) * s + y * d + 1, s)
                    for x in range(k):
                        total[:, :, reached, x * d : x * d + (g.columns - 1) * s + 1 : s] += parts[:, y, x]
            inner = total[:, :, p : p + g.height, p : p + g.width].swapaxes(0, 1)
            if add:
                large[images] += inner
            else:
                large[images] = inner

    def _groups(self) -> Iterator[slice]:
        for first in range(0, self._geometry.batch, self._images):
            yield slice(first, min(first + self._images, self._geometry.batch))

    def _row_blocks(self) -> Iterator[slice]:
        for first in range(0, self._geometry.rows, self._rows):
            yield slice(first, min(first + self._rows, self._geometry.rows))

    def _padded(self, images: Floats) -> Floats:
        """(C, images, H + 2 pad, W + 2 pad): large maps with their borders of zeros."""
        g = self._geometry
        p = g.pad
        if p == 0 and len(images) == 1:
            return images.swapaxes(0, 1)
        space = self._padded_space("padded", len(images))
        if p:
            space[:, :, :p] = space[:, :, -p:] = 0
            space[:, :, :, :p] = space[:, :, :, -p:] = 0
        space[:, :, p : p + g.height, p : p + g.width] = images.swapaxes(0, 1)
        return space

    def _unfold(self, padded: Floats, rows: slice) -> Floats:
        """(C k k, cells): what the kernel sees at the cells of these rows."""
        g = self._geometry
        if self._direct:
            return padded[:, :, rows].reshape(g.channels, -1)
        c_stride, b_stride, y_stride, x_stride = padded.strides
        k, s, d = g.kernel, g.stride, g.dilation
        shape = (g.channels, k, k, padded.shape[1], rows.stop - rows.start, g.columns)
        strides = (c_stride, d * y_stride, d * x_stride, b_stride, s * y_stride, s * x_stride)
        cells = workspace("unfolded", self._depth, shape[3] * shape[4] * shape[5])
        # As as_strided makes it, which takes longer than the copy of a small map.
        windows: Floats = np.ndarray(shape, np.float32, padded, rows.start * s * y_stride, strides)
        np.copyto(cells.reshape(shape), windows)
        return cells

    def _padded_space(self, name: str, images: int) -> Floats:
        g = self._geometry
        return workspace(name, g.channels, images, g.height + 2 * g.pad, g.width + 2 * g.pad)


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
