# SPDX-License-Identifier: Apache-2.0
"""Modulated deformable convolution 3x3 (Zhu et al., 2019) as an NNabla function, with SciPy and NumPy's BLAS.

Bilinear sampling is the product with a sparse matrix that has four numbers per sample, and its gradient the product with the transpose. The samples are multiplied with the kernel in
blocks of cells that fit the cache.
"""

from __future__ import annotations

from collections.abc import Iterator

import nnabla as nn
import numpy as np
from nnabla.function import PythonFunction
from scipy.sparse import csr_array

from pointdet.arrays import Float32Array
from pointdet.ops.cpu.memory import data, grad, silent, store, workspace
from pointdet.ops.cpu.process_state import function_context

BLOCK = 3 << 18  # values of the samples of a block: 3 MiB
X, W, OFFSET, MASK, BIAS = range(5)

# y and x of the nine samples of a cell without offsets
TAPS = np.indices((3, 3), np.float32).reshape(2, 1, 9) - 1


def deformable_convolution(
    x: nn.Variable,
    w: nn.Variable,
    offset: nn.Variable,
    mask: nn.Variable,
    b: nn.Variable,
    weights_last: bool = False,
) -> nn.Variable:
    """Like F.deformable_convolution with pad 1.

    x (B, H, W, C), offset (B, H, W, 18) with y, x of each sample, mask (B, H, W, 9), b (O,). w (O, C, 3, 3), or
    (O, 3, 3, C) if `weights_last`.
    """
    return _DeformableConvolution(function_context(), weights_last)(x, w, offset, mask, b)


class _DeformableConvolution(PythonFunction):
    def __init__(self, ctx: nn.Context, weights_last: bool) -> None:
        super().__init__(ctx)
        self._weights_last = weights_last

    def _matrix(self, w: Float32Array) -> Float32Array:
        """The weights as (O, 9 C), with the channels of each tap together."""
        return (w if self._weights_last else w.transpose(0, 2, 3, 1)).reshape(len(w), -1)

    @property
    def name(self) -> str:
        return "CpuDeformableConvolution"

    def min_outputs(self) -> int:
        return 1

    def grad_depends_output_data(self, i: int, o: int) -> bool:
        return False

    def grad_depends_input_data(self, i: int, j: int) -> bool:
        return BIAS not in (i, j)

    def setup_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        outputs[0].reset_shape((*inputs[X].shape[:3], inputs[W].shape[0]), True)

    @silent
    def forward_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        x, kernel, y = data(inputs[X]), self._matrix(data(inputs[W])), data(outputs[0])
        bias = data(inputs[BIAS])
        for i, image in enumerate(x):
            table = _table(image)
            out = y[i].reshape(-1, len(kernel))
            for cells in _blocks(image):
                samples = _Samples(data(inputs[OFFSET])[i], data(inputs[MASK])[i], cells)
                columns = samples.matrix @ table[samples.near]
                np.matmul(columns.reshape(-1, kernel.shape[1]), kernel.T, out=out[cells])
            out += bias

    @silent
    def backward_impl(
        self,
        inputs: list[nn.Variable],
        outputs: list[nn.Variable],
        propagate_down: list[bool],
        accum: list[bool],
    ) -> None:
        x, kernel, dy = data(inputs[X]), self._matrix(data(inputs[W])), grad(outputs[0])
        dkernel = np.zeros_like(kernel)
        for i, image in enumerate(x):
            table, channels = _table(image), image.shape[2]
            dtable = workspace("dtable", *table.shape)
            dtable[...] = 0
            for cells in _blocks(image):
                samples = _Samples(data(inputs[OFFSET])[i], data(inputs[MASK])[i], cells)
                near, dout = table[samples.near], dy[i].reshape(-1, len(kernel))[cells]
                dkernel += dout.T @ (samples.matrix @ near).reshape(-1, kernel.shape[1])
                dcolumns = workspace("dcolumns", len(dout), kernel.shape[1])
                dcolumns = np.matmul(dout, kernel, out=dcolumns).reshape(-1, channels)
                dtable[samples.near] += samples.matrix.T @ dcolumns
                doffset, dmask = samples.gradients(near, dcolumns)
                if propagate_down[OFFSET]:
                    target = grad(inputs[OFFSET])[i].reshape(-1, 9, 2)[cells]
                    store(target, doffset.transpose(1, 2, 0), accum[OFFSET])
                if propagate_down[MASK]:
                    store(grad(inputs[MASK])[i].reshape(-1, 9)[cells], dmask, accum[MASK])
            if propagate_down[X]:
                padded = dtable.reshape(image.shape[0] + 2, image.shape[1] + 2, channels)
                store(grad(inputs[X])[i], padded[1:-1, 1:-1], accum[X])
        if propagate_down[W]:
            dw = dkernel.reshape(len(kernel), 3, 3, -1)
            store(grad(inputs[W]), dw if self._weights_last else dw.transpose(0, 3, 1, 2), accum[W])
        if propagate_down[BIAS]:
            store(grad(inputs[BIAS]), dy.sum(axis=(0, 1, 2)), accum[BIAS])


class _Samples:
    """The nine samples of every cell of a block: their four neighbours and their interpolation weights."""

    def __init__(self, offset: Float32Array, mask: Float32Array, cells: slice) -> None:
        """offset (H, W, 18), mask (H, W, 9) of one image."""
        height, width, _ = mask.shape
        size = np.array([height, width], np.float32).reshape(2, 1, 1)
        position = np.add(offset.reshape(-1, 9, 2)[cells].transpose(2, 0, 1), TAPS, order="C")
        position += np.stack(np.divmod(np.arange(cells.start, cells.stop), width))[..., None]  # (2, cells, 9)
        # Outside these borders a sample is zero and has no gradients. Offsets may be NaN, but an index must
        # not be.
        self._inside = ((position > -1) & (position < size)).all(0)
        low = np.fmin(np.fmax(np.floor(position), -1), size - 1)
        self._y, self._x = position - low
        self._mask = mask.reshape(-1, 9)[cells] * self._inside
        first = ((low[0] + 1) * (width + 2) + low[1] + 1).astype(np.int32)
        # The part of the table that these samples read, and whose gradient they change.
        self.near = slice(int(first.min()), int(first.max()) + width + 4)
        first -= self.near.start
        self._neighbours = [first, first + 1, first + width + 2, first + width + 3]
        self.matrix = self._interpolation()

    def _interpolation(self) -> csr_array:
        """(9 cells, length of table[near]): the weights of the four neighbours of every sample."""
        y, x = self._y, self._x
        weights = np.stack([(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x], -1) * self._mask[..., None]
        ends = np.arange(0, weights.size + 1, 4, dtype=np.int32)
        neighbours = np.stack(self._neighbours, -1)
        shape = (len(ends) - 1, self.near.stop - self.near.start)
        return csr_array((weights.ravel(), neighbours.ravel(), ends), shape=shape)

    def gradients(self, near: Float32Array, dcolumns: Float32Array) -> tuple[Float32Array, Float32Array]:
        """Gradients of offset (2, cells, 9) and mask (cells, 9), from those of the samples (9 cells, C)."""
        values = workspace("neighbours", *dcolumns.shape)
        products = []  # neighbour times gradient of the sample, summed over channels
        for index in self._neighbours:
            np.take(near, index.ravel(), axis=0, out=values, mode="clip")  # mode "clip" saves a copy
            products.append(np.einsum("sc,sc->s", values, dcolumns).reshape(index.shape))
        top_left, top_right, bottom_left, bottom_right = products
        y, x = self._y, self._x
        top, bottom = top_left + x * (top_right - top_left), bottom_left + x * (bottom_right - bottom_left)
        left, right = top_left + y * (bottom_left - top_left), top_right + y * (bottom_right - top_right)
        return (
            np.stack([bottom - top, right - left]) * self._mask,
            (top + y * (bottom - top)) * self._inside,
        )


def _table(image: Float32Array) -> Float32Array:
    """(H, W, C) -> ((H + 2) (W + 2), C): one row per cell, with a border of zeros."""
    height, width, channels = image.shape
    table = workspace("table", height + 2, width + 2, channels)
    table[0] = table[-1] = 0
    table[:, 0] = table[:, -1] = 0
    table[1:-1, 1:-1] = image
    return table.reshape(-1, channels)


def _blocks(image: Float32Array) -> Iterator[slice]:
    """The cells of an image in blocks that fit the cache."""
    height, width, channels = image.shape
    step = max(1, BLOCK // (9 * channels))
    for first in range(0, height * width, step):
        yield slice(first, min(first + step, height * width))
