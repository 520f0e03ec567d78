# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation, sum and ReLU of maps (B, H, W, C) with NumPy, in blocks of cells that fit the cache."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pointdet.arrays import Float32Array, Float64Array
from pointdet.ops.cpu.memory import workspace, zeros

BLOCK = 1 << 16  # values of a block: 256 KiB
ROW = 256  # NumPy is slow in rows of fewer values, so several cells become one row


class NumpyNormalisation:
    """Batch normalisation over all axes but the last."""

    def __init__(self, eps: float, batch_stat: bool) -> None:
        self._eps, self._batch_stat = eps, batch_stat

    def forward(
        self,
        x: Float32Array,
        gamma: Float32Array,
        beta: Float32Array,
        mean: Float32Array,
        var: Float32Array,
        y: Float32Array,
        _: Float32Array | None,
    ) -> None:
        """mean and var, (C,), are computed with batch statistics."""
        rows, repeats = _rows(x)
        count = rows.size // len(mean)
        if self._batch_stat:
            total = np.zeros(rows.shape[1])
            for block in _blocks(rows):
                total += np.add.reduce(rows[block], 0)
            mean[...] = _folded(total, repeats) / count
            centre, squares = np.tile(mean, repeats), np.zeros(rows.shape[1])
            for block in _blocks(rows):
                centred = np.subtract(rows[block], centre, out=_space("centred", rows[block]))
                squares += np.add.reduce(np.multiply(centred, centred, out=centred), 0)
            var[...] = _folded(squares, repeats) / count
        scale = gamma / np.sqrt(var + self._eps)
        centre, factor, shift = (np.tile(v, repeats) for v in (mean, scale, beta))
        result = y.reshape(rows.shape)
        for block in _blocks(rows):
            out = result[block]
            np.subtract(rows[block], centre, out=out)
            out *= factor
            out += shift

    def backward(
        self,
        x: Float32Array,
        gamma: Float32Array,
        mean: Float32Array,
        var: Float32Array,
        _: Float32Array | None,
        dy: Float32Array,
        dx: Float32Array,
        dgamma: Float32Array,
        dbeta: Float32Array,
    ) -> None:
        """The gradients dx, dgamma and dbeta. mean and var are those of `forward`."""
        rows, repeats = _rows(x)
        count = rows.size // len(mean)
        gradients, result = dy.reshape(rows.shape), dx.reshape(rows.shape)
        centre, inverse = np.tile(mean, repeats), 1 / np.sqrt(var + self._eps)
        total, products = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
        for block in _blocks(rows):
            total += np.add.reduce(gradients[block], 0)
            centred = np.subtract(rows[block], centre, out=_space("centred", rows[block]))
            products += np.add.reduce(np.multiply(centred, gradients[block], out=centred), 0)
        dbeta[...] = _folded(total, repeats)
        dgamma[...] = _folded(products, repeats) * inverse
        factor = np.tile(gamma * inverse, repeats)
        if not self._batch_stat:
            for block in _blocks(rows):
                np.multiply(gradients[block], factor, out=result[block])
            return
        # The statistics depend on x, too.
        slope = np.tile(-inverse / count * dgamma, repeats)
        shift = np.tile(dbeta / count, repeats)
        for block in _blocks(rows):
            centred = np.subtract(rows[block], centre, out=_space("centred", rows[block]))
            centred *= slope
            centred += gradients[block]
            centred -= shift
            np.multiply(centred, factor, out=result[block])


class NumpyAddRelu:
    """max(0, a + b) of two maps, and the gradient of ReLU from its result."""

    def forward(self, a: Float32Array, b: Float32Array) -> None:
        """Replace a."""
        rows, other = a.reshape(-1), b.reshape(-1)
        for first in range(0, rows.size, BLOCK):
            part = rows[first : first + BLOCK]
            part += other[first : first + BLOCK]
            np.maximum(part, zeros(part.size), out=part)  # three times as fast as with the number 0

    def backward(self, y: Float32Array, dy: Float32Array, dx: Float32Array) -> None:
        """dx = dy where y > 0, else 0."""
        values, gradients, result = y.reshape(-1), dy.reshape(-1), dx.reshape(-1)
        for first in range(0, values.size, BLOCK):
            block = slice(first, first + BLOCK)
            np.multiply(gradients[block], values[block] > 0, out=result[block])


def _rows(x: Float32Array) -> tuple[Float32Array, int]:
    """(B, H, W, C) -> rows of several cells, and their number of cells."""
    cells, repeats = x.size // x.shape[3], 1
    while cells % (2 * repeats) == 0 and repeats * x.shape[3] < ROW:
        repeats *= 2
    return x.reshape(cells // repeats, repeats * x.shape[3]), repeats


def _folded(row: Float64Array, repeats: int) -> Float64Array:
    """The sum over the cells of a row."""
    return row.reshape(repeats, -1).sum(0)


def _blocks(rows: Float32Array) -> Iterator[slice]:
    step = max(1, BLOCK // rows.shape[1])
    for first in range(0, len(rows), step):
        yield slice(first, min(first + step, len(rows)))


def _space(name: str, part: Float32Array) -> Float32Array:
    return workspace(name, *part.shape)
