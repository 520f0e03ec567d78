# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation, the sum with a shortcut and ReLU fused into one NNabla function.

It works in blocks of channels that fit the cache, so that each value is read from memory once.
"""

from __future__ import annotations

from collections.abc import Iterator

import nnabla as nn
import numpy as np
from nnabla.function import PythonFunction

from pointdet.arrays import Float32Array
from pointdet.ops.cpu.memory import data, grad, recomputing, silent, store, workspace, zeros
from pointdet.ops.cpu.process_state import function_context

BLOCK = 1 << 16  # values of a block: 256 KiB

X, BETA, GAMMA, MEAN, VAR, SHORTCUT = range(6)


def batch_normalization(
    x: nn.Variable,
    parameters: list[nn.Variable],
    *,
    decay: float,
    eps: float,
    batch_stat: bool,
    shortcut: nn.Variable | None,
    relu: bool,
) -> nn.Variable:
    """Like F.batch_normalization over axis 1, then the sum with `shortcut`, then ReLU if `relu`.

    x and `shortcut`: (B, C, H, W). `parameters`: beta, gamma, mean, var, each (1, C, 1, 1). With
    `batch_stat`, mean and var are updated.
    """
    inputs = [x, *parameters] if shortcut is None else [x, *parameters, shortcut]
    return _BatchNormalization(function_context(), decay, eps, batch_stat, relu)(*inputs)


class _BatchNormalization(PythonFunction):
    def __init__(self, ctx: nn.Context, decay: float, eps: float, batch_stat: bool, relu: bool) -> None:
        super().__init__(ctx)
        self._decay, self._eps, self._batch_stat, self._relu = decay, eps, batch_stat, relu

    @property
    def name(self) -> str:
        return "FusedBatchNormalization"

    def min_outputs(self) -> int:
        return 1

    def grad_depends_output_data(self, i: int, o: int) -> bool:
        return self._relu

    def grad_depends_input_data(self, i: int, j: int) -> bool:
        return j == X and i in (X, GAMMA) or j == GAMMA and i == X

    def setup_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        outputs[0].reset_shape(inputs[X].shape, True)

    def _blocks(self, x: Float32Array) -> Iterator[slice]:
        step = max(1, BLOCK * x.shape[1] // x.size)
        for first in range(0, x.shape[1], step):
            yield slice(first, min(first + step, x.shape[1]))

    @silent
    def forward_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        x, y = _flat(data(inputs[X])), _flat(data(outputs[0]))
        beta, gamma, mean, var = (data(inputs[i]).reshape(-1, 1) for i in (BETA, GAMMA, MEAN, VAR))
        shortcut = _flat(data(inputs[SHORTCUT])) if len(inputs) > SHORTCUT else None
        if not self._batch_stat:
            self._mean, self._scale = mean.copy(), 1 / np.sqrt(var + self._eps)
        else:
            self._mean, self._scale = np.empty_like(mean), np.empty_like(var)
        count = x.shape[0] * x.shape[2]
        for block in self._blocks(x):
            part, out = x[:, block], y[:, block]
            centred = workspace("centred", *part.shape)
            if self._batch_stat:
                self._mean[block, 0] = np.einsum("bcn->c", part) / count
                np.subtract(part, self._mean[block], out=centred)
                squares = np.einsum("bcn,bcn->c", centred, centred)[:, None] / count
                self._scale[block] = 1 / np.sqrt(squares + self._eps)
                if not recomputing():
                    var[block] *= self._decay
                    var[block] += (1 - self._decay) * count / max(count - 1, 1) * squares
            else:
                np.subtract(part, self._mean[block], out=centred)
            centred *= self._scale[block] * gamma[block]
            if shortcut is not None:
                centred += shortcut[:, block]
            if self._relu:
                centred += beta[block]
                np.maximum(centred, zeros(*part.shape), out=out)  # three times as fast as with the number 0
            else:
                np.add(centred, beta[block], out=out)
        if self._batch_stat and not recomputing():
            mean *= self._decay
            mean += (1 - self._decay) * self._mean

    @silent
    def backward_impl(
        self,
        inputs: list[nn.Variable],
        outputs: list[nn.Variable],
        propagate_down: list[bool],
        accum: list[bool],
    ) -> None:
        dy = _flat(grad(outputs[0]))
        gamma = data(inputs[GAMMA]).reshape(-1, 1)
        dbeta, dgamma = np.empty_like(gamma), np.empty_like(gamma)
        count = dy.shape[0] * dy.shape[2]
        for block in self._blocks(dy):
            part = dy[:, block]
            if self._relu:
                mask = np.greater(_flat(data(outputs[0]))[:, block], 0, out=_mask(part.shape))
                part = np.multiply(part, mask, out=workspace("masked", *part.shape))
            if len(inputs) > SHORTCUT and propagate_down[SHORTCUT]:
                store(_flat(grad(inputs[SHORTCUT]))[:, block], part, accum[SHORTCUT])
            centred = workspace("centred", *part.shape)
            np.subtract(_flat(data(inputs[X]))[:, block], self._mean[block], out=centred)
            scale = self._scale[block]
            dbeta[block, 0] = np.einsum("bcn->c", part)
            dgamma[block] = np.einsum("bcn,bcn->c", part, centred)[:, None] * scale
            if not propagate_down[X]:
                continue
            if self._batch_stat:  # the statistics depend on x, too
                centred *= -scale / count * dgamma[block]
                centred += part
                centred -= dbeta[block] / count
                centred *= scale * gamma[block]
            else:
                np.multiply(part, scale * gamma[block], out=centred)
            store(_flat(grad(inputs[X]))[:, block], centred, accum[X])
        for i, total in ((BETA, dbeta), (GAMMA, dgamma)):
            if propagate_down[i]:
                store(grad(inputs[i]).reshape(-1, 1), total, accum[i])


def _flat(maps: Float32Array) -> Float32Array:
    """(B, C, H, W) -> (B, C, H W)."""
    return maps.reshape(*maps.shape[:2], -1)


def _mask(shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    size = int(np.prod(shape))
    return workspace("mask", size).view(np.bool_)[:size].reshape(shape)
