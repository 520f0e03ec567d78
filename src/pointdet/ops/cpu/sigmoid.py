# SPDX-License-Identifier: Apache-2.0
"""The sigmoid as an NNabla function with NumPy."""

from __future__ import annotations

import nnabla as nn
import numpy as np
from nnabla.function import PythonFunction

from pointdet.ops.cpu.memory import data, silent
from pointdet.ops.cpu.process_state import function_context

BLOCK = 1 << 15  # values of a block: 128 KiB


def sigmoid(x: nn.Variable) -> nn.Variable:
    """1 / (1 + exp(-x)). It has no gradient."""
    return _Sigmoid(function_context())(x)


class _Sigmoid(PythonFunction):
    @property
    def name(self) -> str:
        return "CpuSigmoid"

    def min_outputs(self) -> int:
        return 1

    def grad_depends_output_data(self, i: int, o: int) -> bool:
        return False

    def grad_depends_input_data(self, i: int, j: int) -> bool:
        return False

    def setup_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        outputs[0].reset_shape(inputs[0].shape, True)

    @silent
    def forward_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        x, y = data(inputs[0]).reshape(-1), data(outputs[0]).reshape(-1)
        for first in range(0, x.size, BLOCK):
            part = y[first : first + BLOCK]
            np.negative(x[first : first + BLOCK], out=part)
            np.exp(part, out=part)  # infinite below -88: the sigmoid is 0
            part += 1
            np.divide(1, part, out=part)
