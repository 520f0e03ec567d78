# SPDX-License-Identifier: Apache-2.0
"""Gradient checkpointing of a part of a graph: only its input is kept for the backward pass.

With `nn.recompute` NNabla computes maps again as well, but those of all branches of a network that are
equally far from its input at the same time. Here it is one part after another.
"""

from __future__ import annotations

from collections.abc import Callable

import nnabla as nn
from nnabla.function import PythonFunction

from pointdet.ops.cpu.process_state import function_context


def checkpoint(build: Callable[[nn.Variable], nn.Variable], x: nn.Variable) -> nn.Variable:
    """The output of `build(x)` as one function, which computes its inner maps twice.

    `build` uses no parameters and no random numbers. Its output has the shape of x.
    """
    return _Checkpoint(function_context(), build, x.shape)(x)


class _Checkpoint(PythonFunction):
    def __init__(
        self, ctx: nn.Context, build: Callable[[nn.Variable], nn.Variable], shape: tuple[int, ...]
    ) -> None:
        super().__init__(ctx)
        # The inner graph is run with the arrays of the outer one.
        self._x = nn.Variable(shape, need_grad=True)
        self._y = build(self._x)

    @property
    def name(self) -> str:
        return "Checkpoint"

    def min_outputs(self) -> int:
        return 1

    def grad_depends_output_data(self, i: int, o: int) -> bool:
        return False

    def grad_depends_input_data(self, i: int, j: int) -> bool:
        return True

    def setup_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        outputs[0].reset_shape(self._y.shape, True)

    def forward_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        self._x.data, self._y.data = inputs[0].data, outputs[0].data
        self._y.forward(clear_buffer=True)

    def backward_impl(
        self,
        inputs: list[nn.Variable],
        outputs: list[nn.Variable],
        propagate_down: list[bool],
        accum: list[bool],
    ) -> None:
        self._x.data, self._y.data = inputs[0].data, nn.NdArray(self._y.shape)
        self._x.grad, self._y.grad = inputs[0].grad, outputs[0].grad
        if not accum[0]:
            self._x.grad.zero()
        self._y.forward(clear_no_need_grad=True)
        self._y.backward(None, clear_buffer=True)
        self._y.data = nn.NdArray(self._y.shape)
