# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation, sum with a shortcut and ReLU as one NNabla function, with oneDNN or NumPy."""

from __future__ import annotations

from typing import Protocol

import nnabla as nn
import numpy as np
from nnabla.function import PythonFunction

from pointdet.arrays import Float32Array
from pointdet.ops.cpu import onednn_normalisation
from pointdet.ops.cpu.memory import data, grad, recomputing, silent, store, workspace
from pointdet.ops.cpu.numpy_normalisation import NumpyAddRelu, NumpyNormalisation
from pointdet.ops.cpu.onednn_normalisation import OneDnnAddRelu, OneDnnNormalisation
from pointdet.ops.cpu.process_state import function_context

X, BETA, GAMMA, SHORTCUT = range(4)


def batch_normalization(
    x: nn.Variable,
    parameters: list[nn.Variable],
    *,
    decay: float,
    eps: float,
    batch_stat: bool,
    shortcut: nn.Variable | None,
    relu: bool,
    library: str,
) -> nn.Variable:
    """Like F.batch_normalization over axis 3, then the sum with `shortcut`, then ReLU if `relu`.

    x and `shortcut`: (B, H, W, C). `parameters`: beta, gamma, mean, var, each with C values. With `batch_stat`,
    mean and var are updated. library: "blas" or "onednn".
    """
    beta, gamma, *statistics = parameters
    inputs = [x, beta, gamma] if shortcut is None else [x, beta, gamma, shortcut]
    settings = (decay, eps, batch_stat, relu, library)
    return _BatchNormalization(function_context(), statistics, *settings)(*inputs)


class AddRelu(Protocol):
    """max(0, a + b) of two maps, and the gradient of ReLU from its result."""

    def forward(self, a: Float32Array, b: Float32Array) -> None:
        """Replace a."""

    def backward(self, y: Float32Array, dy: Float32Array, dx: Float32Array) -> None:
        """dx = dy where y > 0, else 0."""


def add_relu(shape: tuple[int, ...], library: str) -> AddRelu:
    """For maps of this shape (B, H, W, C)."""
    return onednn_normalisation.shared(OneDnnAddRelu, shape) if library == "onednn" else NumpyAddRelu()


class _BatchNormalization(PythonFunction):
    """Mean and var are no inputs: NNabla asks for every pair of inputs what the gradient needs, in each pass."""

    def __init__(
        self,
        ctx: nn.Context,
        statistics: list[nn.Variable],
        decay: float,
        eps: float,
        batch_stat: bool,
        relu: bool,
        library: str,
    ) -> None:
        super().__init__(ctx)
        self._statistics = statistics
        self._decay, self._eps, self._batch_stat, self._relu = decay, eps, batch_stat, relu
        self._library = library

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
        shape = inputs[X].shape
        outputs[0].reset_shape(shape, True)
        self._add_relu = add_relu(shape, self._library)
        self._primitives: OneDnnNormalisation | NumpyNormalisation
        # The library has one function for normalisation and ReLU.
        fused = self._relu and len(inputs) == SHORTCUT
        self._mask: Float32Array | None = None
        if self._library == "onednn" and onednn_normalisation.supports(shape[3]):
            arguments = (shape, self._eps, self._batch_stat, fused)
            self._primitives = onednn_normalisation.shared(OneDnnNormalisation, *arguments)
            if fused:
                self._mask = np.empty(self._primitives.mask_size // 4 + 1, np.float32)
            self._fused = fused
        else:
            self._primitives, self._fused = NumpyNormalisation(self._eps, self._batch_stat), False

    @silent
    def forward_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        x, y = data(inputs[X]), data(outputs[0])
        variables = (inputs[BETA], inputs[GAMMA], *self._statistics)
        beta, gamma, mean, var = (data(variable).reshape(-1) for variable in variables)
        if self._batch_stat:
            self._mean, self._var = np.empty_like(mean), np.empty_like(var)
        else:
            self._mean, self._var = mean.copy(), var.copy()
        self._primitives.forward(x, gamma, beta, self._mean, self._var, y, self._mask)
        if len(inputs) > SHORTCUT:
            if self._relu:
                self._add_relu.forward(y, data(inputs[SHORTCUT]))
            else:
                y += data(inputs[SHORTCUT])
        elif self._relu and not self._fused:
            np.maximum(y, 0, out=y)
        if self._batch_stat and not recomputing():
            count = x.size // x.shape[3]
            mean *= self._decay
            mean += (1 - self._decay) * self._mean
            var *= self._decay
            var += (1 - self._decay) * count / max(count - 1, 1) * self._var

    @silent
    def backward_impl(
        self,
        inputs: list[nn.Variable],
        outputs: list[nn.Variable],
        propagate_down: list[bool],
        accum: list[bool],
    ) -> None:
        dy = grad(outputs[0])
        with_shortcut = len(inputs) > SHORTCUT and propagate_down[SHORTCUT]
        if self._relu and not self._fused:
            # The gradient of the shortcut is the same array.
            replaced = with_shortcut and not accum[SHORTCUT]
            masked = grad(inputs[SHORTCUT]) if replaced else workspace("masked", *dy.shape)
            self._add_relu.backward(data(outputs[0]), dy, masked)
            dy = masked
            if with_shortcut and not replaced:
                store(grad(inputs[SHORTCUT]), dy, True)
        elif with_shortcut:
            store(grad(inputs[SHORTCUT]), dy, accum[SHORTCUT])
        gamma = data(inputs[GAMMA]).reshape(-1)
        dgamma, dbeta = np.empty_like(gamma), np.empty_like(gamma)
        replaced = propagate_down[X] and not accum[X]
        dx = grad(inputs[X]) if replaced else workspace("dx", *dy.shape)
        x = data(inputs[X])
        self._primitives.backward(x, gamma, self._mean, self._var, self._mask, dy, dx, dgamma, dbeta)
        if propagate_down[X] and not replaced:
            store(grad(inputs[X]), dx, True)
        for i, total in ((BETA, dbeta), (GAMMA, dgamma)):
            if propagate_down[i]:
                store(grad(inputs[i]).reshape(-1), total, accum[i])
