# SPDX-License-Identifier: Apache-2.0
"""Adam and the moving average in blocks that stay in the cache: each value is fetched from memory once."""

from __future__ import annotations

from collections.abc import Iterator

import nnabla as nn
import numpy as np
from nnabla.solvers import Solver

from pointdet.ops.cpu.memory import Floats, view, workspace

BLOCK = 1 << 15  # values of a block: 128 KiB


class BlockedAdam:
    """What `update` of NNabla's Adam does, over the same parameters and states (Kingma and Ba, 2015, algorithm 1)."""

    def __init__(self, adam: Solver) -> None:
        self._adam = adam
        info = adam.info
        self._beta1, self._beta2, self._eps = info["beta1"], info["beta2"], info["eps"]
        self.read_states()

    def read_states(self) -> None:
        """The moments and counters of the solver, which has made or loaded new ones."""
        self._parameters = self._adam.get_parameters()
        self._states = self._adam.get_states()

    def write_states(self) -> None:
        """Tell the solver how often it was updated; the moments are its own arrays."""
        self._adam.set_states(self._states)

    def update(self, rate: float) -> None:
        """Move every parameter against its gradient."""
        for name, parameter in self._parameters.items():
            state = self._states[name]
            state.t += 1
            corrected = rate * np.sqrt(1 - self._beta2**state.t) / (1 - self._beta1**state.t)
            arrays = (parameter.data, parameter.grad, state.pstate["mean"].data, state.pstate["var"].data)
            for value, gradient, mean, var in _blocks(*arrays):
                self._move(value, gradient, mean, var, np.float32(corrected))

    def _move(self, value: Floats, gradient: Floats, mean: Floats, var: Floats, rate: np.float32) -> None:
        step = workspace("step", len(value))
        np.multiply(gradient, 1 - self._beta1, out=step)
        mean *= self._beta1
        mean += step
        np.multiply(gradient, gradient, out=step)
        step *= 1 - self._beta2
        var *= self._beta2
        var += step
        np.sqrt(var, out=step)
        step += self._eps
        np.divide(mean, step, out=step)
        step *= rate
        value -= step


def follow(average: nn.NdArray, newest: nn.NdArray, decay: float) -> None:
    """average = decay average + (1 - decay) newest."""
    for old, new in _blocks(average, newest):
        step = workspace("step", len(new))
        np.multiply(new, 1 - decay, out=step)
        old *= decay
        old += step


def _blocks(*arrays: nn.NdArray) -> Iterator[tuple[Floats, ...]]:
    flat = [view(array).reshape(-1) for array in arrays]
    for first in range(0, flat[0].size, BLOCK):
        yield tuple(values[first : first + BLOCK] for values in flat)
