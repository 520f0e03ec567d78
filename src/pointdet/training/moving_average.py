# SPDX-License-Identifier: Apache-2.0
"""The exponential moving average (EMA) of the parameters and of the running statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import nnabla as nn
import nnabla.functions as F
import numpy as np

from pointdet.arrays import Arrays
from pointdet.ops.cpu.blocks import Layout, Views
from pointdet.ops.cpu.memory import view
from pointdet.ops.cpu.update import update_average

GROUP_SIZE = 1 << 24  # values in a flat array, 64 MiB, unless one parameter is larger


class MovingAverage:
    """Updates average = decay * average + (1 - decay) * parameter after every update of the parameters.

    The running statistics of batch normalisation are averaged too, because they must fit the averaged
    weights. The averages of many parameters are in one flat array, which a GPU updates with few kernels.
    """

    def __init__(self, parameters: Mapping[str, nn.Variable], decay: float, in_blocks: bool) -> None:
        """`decay` 0: no average. `in_blocks`: use the functions of `ops.cpu` (CPU only)."""
        self._decay = decay
        self._parameters = {name: v.data for name, v in parameters.items()} if decay else {}
        self._groups = [_Group(part) for part in _split(parameters)] if decay else []
        self._graph = None
        if decay and not in_blocks:
            self._graph = F.sink(*(group.graph(decay) for group in self._groups))

    def __bool__(self) -> bool:
        """Whether there is an average."""
        return bool(self._groups)

    def update(self) -> None:
        """Update the average with the present parameters."""
        if self._graph is not None:
            self._graph.forward(clear_buffer=True)
            return
        for group in self._groups:
            update_average(view(group.average), group.layout, group.views, self._decay)

    @property
    def statistics(self) -> list[nn.NdArray]:
        """The flat arrays with the averages of the running statistics."""
        return [group.average for group in self._groups if not group.trainable]

    def values(self) -> Arrays:
        """Copies of the averages by name, in the order of the parameters. Empty if `decay` is 0."""
        named = {
            n: a.copy() for group in self._groups for n, a in group.layout.named(group.average.data).items()
        }
        return {name: named[name] for name in self._parameters}

    def set(self, values: Arrays) -> None:
        """Replace the averages. `values`: all of them, by name."""
        for group in self._groups:
            for name, average in group.layout.named(group.average.data).items():
                average[...] = values[name]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the network the averaged parameters within the block. No effect if `decay` is 0."""
        originals = {name: parameter.data.copy() for name, parameter in self._parameters.items()}
        self._give(self.values())
        try:
            yield
        finally:
            self._give(originals)

    def _give(self, values: Arrays) -> None:
        for name, array in values.items():
            self._parameters[name].data = array


class _Group:
    """The averages of some parameters in one flat array. They start with the values of the parameters."""

    def __init__(self, parameters: Mapping[str, nn.Variable]) -> None:
        self.layout = Layout({name: parameter.shape for name, parameter in parameters.items()})
        self.views = Views(self.layout, parameters, "data")
        self._ordered = [parameters[name] for name in self.layout.shapes]
        self.trainable = self._ordered[0].need_grad
        flat = np.concatenate([parameter.d.ravel() for parameter in self._ordered])
        self.average = nn.NdArray.from_numpy_array(flat)

    def graph(self, decay: float) -> nn.Variable:
        """A graph whose forward pass updates the average."""
        average = nn.Variable(self.average.shape)
        average.data = self.average
        parts = [_flat(parameter) for parameter in self._ordered]
        latest = F.concatenate(*parts, axis=0) if len(parts) > 1 else parts[0]
        return F.assign(average, average * decay + latest * (1 - decay))


def _flat(parameter: nn.Variable) -> nn.Variable:
    """A variable with one axis and the memory of the parameter."""
    variable = nn.Variable((parameter.size,))
    variable.data = parameter.data.view((parameter.size,))
    return variable


def _split(parameters: Mapping[str, nn.Variable]) -> list[dict[str, nn.Variable]]:
    """Groups of at most GROUP_SIZE values, either all trainable or all running statistics."""
    groups: list[dict[str, nn.Variable]] = []
    for trainable in (True, False):
        size = GROUP_SIZE
        for name, parameter in parameters.items():
            if parameter.need_grad == trainable:
                if size + parameter.size > GROUP_SIZE:
                    groups.append({})
                    size = 0
                groups[-1][name] = parameter
                size += parameter.size
    return groups
