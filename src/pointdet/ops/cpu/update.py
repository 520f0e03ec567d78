# SPDX-License-Identifier: Apache-2.0
"""Adam and the exponential moving average (EMA), in blocks that fit the cache."""

from __future__ import annotations

import math

import nnabla as nn
import numpy as np
from nnabla.solvers import Solver

from pointdet.arrays import Float32Array
from pointdet.ops.cpu.blocks import Layout, Views
from pointdet.ops.cpu.memory import silent, view, workspace


class BlockedAdam:
    """An NNabla Adam solver's parameters and states, updated with NumPy (Kingma and Ba, 2015, algorithm 1)."""

    def __init__(self, adam: Solver) -> None:
        self._adam = adam
        info, parameters = adam.info, adam.get_parameters()
        self._beta1, self._beta2, self._eps = info["beta1"], info["beta2"], info["eps"]
        self._layout = Layout({name: variable.shape for name, variable in parameters.items()})
        self._values = Views(self._layout, parameters, "data")
        self._gradients = Views(self._layout, parameters, "grad")
        self.read_states()

    def read_states(self) -> None:
        """Read the moments and counters of the solver again, after it created or loaded new ones."""
        self._states = self._adam.get_states()
        self._updates = np.array([self._states[name].t for name in self._layout.shapes], np.int64)
        self._mean, self._var = self._flat_moment("mean"), self._flat_moment("var")

    def _flat_moment(self, kind: str) -> nn.NdArray:
        """The moments of all parameters in one array. The arrays of the solver become views of it."""
        flat = nn.NdArray((self._layout.size,))
        values = flat.cast(np.float32)
        for name, place in self._layout.places.items():
            variable = self._states[name].pstate[kind]
            values[place] = view(variable.data).reshape(-1)
            variable.data = flat.narrow(0, place.start, place.stop - place.start).view(variable.shape)
        return flat

    def write_states(self) -> None:
        """Set the update counters of the solver. The moments are the solver's own arrays."""
        for name, updates in zip(self._layout.shapes, self._updates.tolist(), strict=True):
            self._states[name].t = updates
        self._adam.set_states(self._states)

    @silent
    def update(self, rate: float, weight_decay: float = 0.0, max_norm: float = 0.0) -> None:
        """One step of Adam for all parameters. rate: learning rate.

        First the gradients are scaled so that their norm is at most `max_norm`, unless it is 0. Then
        `weight_decay` times the parameters is added to them. The arrays of the gradients stay as they are.
        """
        self._values.refresh()
        self._gradients.refresh()
        factor = self._clipping(max_norm) if max_norm else 1.0
        rates = self._corrected(rate)
        mean, var = view(self._mean), view(self._var)
        for block in self._layout.blocks:
            value, gradient = self._values.read(block, "value"), self._gradients.read(block, "gradient")
            if factor != 1 or weight_decay:
                gradient = np.multiply(gradient, factor, out=workspace("scaled", len(gradient)))
                gradient += np.multiply(value, weight_decay, out=workspace("step", len(value)))
            step = rates if len(rates) == 1 else rates[block.place]
            self._step(value, gradient, mean[block.place], var[block.place], step)
            if block.joined:
                self._values.write(block, value)

    def _clipping(self, max_norm: float) -> float:
        """The factor that reduces the norm of all gradients to `max_norm`."""
        squares = 0.0
        for block in self._layout.blocks:
            gradient = self._gradients.read(block, "gradient")
            squares += float(np.dot(gradient, gradient))
        norm = math.sqrt(squares)
        return max_norm / norm if norm > max_norm else 1.0

    def _corrected(self, rate: float) -> Float32Array:
        """The learning rate with the correction of both moments: one value, or one for each parameter's value.

        The counters differ if the solver's file comes from a training that did not update all parameters.
        """
        self._updates += 1
        rates = rate * np.sqrt(1 - self._beta2**self._updates) / (1 - self._beta1**self._updates)
        if (self._updates == self._updates[0]).all():
            return rates[:1].astype(np.float32)
        sizes = [place.stop - place.start for place in self._layout.places.values()]
        return np.repeat(rates.astype(np.float32), sizes)

    def _step(
        self,
        value: Float32Array,
        gradient: Float32Array,
        mean: Float32Array,
        var: Float32Array,
        rate: Float32Array,
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


def update_average(average: Float32Array, layout: Layout, parameters: Views, decay: float) -> None:
    """average = decay * average + (1 - decay) * parameters, in place, for a flat array in this layout."""
    parameters.refresh()
    for block in layout.blocks:
        old, new = average[block.place], parameters.read(block, "value")
        step = np.multiply(new, 1 - decay, out=workspace("step", len(new)))
        old *= decay
        old += step
