# SPDX-License-Identifier: Apache-2.0
"""Adam and the exponential moving average (EMA), in blocks that fit the cache."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from nnabla.solvers import Solver

from pointdet.arrays import Float32Array
from pointdet.ops.cpu.memory import view, workspace

BLOCK = 1 << 15  # values of a block: 128 KiB


class BlockedAdam:
    """`update` of an NNabla Adam solver, on its parameters and states (Kingma and Ba, 2015, algorithm 1)."""

    def __init__(self, adam: Solver) -> None:
        self._adam = adam
        info = adam.info
        self._beta1, self._beta2, self._eps = info["beta1"], info["beta2"], info["eps"]
        self.read_states()

    def read_states(self) -> None:
        """Read the moments and counters of the solver again, after it created or loaded new ones."""
        self._parameters = self._adam.get_parameters()
        self._states = self._adam.get_states()

    def write_states(self) -> None:
        """Set the update counters of the solver. The moments are the solver's own arrays."""
        self._adam.set_states(self._states)

    def update(self, rate: float) -> None:
        """One step of Adam for all parameters. rate: learning rate."""
        for name, parameter in self._parameters.items():
            state = self._states[name]
            state.t += 1
            corrected = rate * np.sqrt(1 - self._beta2**state.t) / (1 - self._beta1**state.t)
            arrays = (parameter.data, parameter.grad, state.pstate["mean"].data, state.pstate["var"].data)
            for value, gradient, mean, var in _blocks(*map(view, arrays)):
                self._step(value, gradient, mean, var, np.float32(corrected))

    def _step(
        self,
        value: Float32Array,
        gradient: Float32Array,
        mean: Float32Array,
        var: Float32Array,
        rate: np.float32,
    ) -> None:
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


def update_average(average: Float32Array, parameter: Float32Array, decay: float) -> None:
    """average = decay * average + (1 - decay) * parameter, in place."""
    for old, new in _blocks(average, parameter):
        step = workspace("step", len(new))
        np.multiply(new, 1 - decay, out=step)
        old *= decay
        old += step


def _blocks(*arrays: Float32Array) -> Iterator[tuple[Float32Array, ...]]:
    flat = [array.reshape(-1) for array in arrays]
    for first in range(0, flat[0].size, BLOCK):
        yield tuple(values[first : first + BLOCK] for values in flat)
