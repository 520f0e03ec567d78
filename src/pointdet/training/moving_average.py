# SPDX-License-Identifier: Apache-2.0
"""The exponential moving average (EMA) of the parameters and of the running statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import nnabla as nn
import nnabla.functions as F

from pointdet.ops.cpu.update import update_average


class MovingAverage:
    """Updates average = decay * average + (1 - decay) * parameter after every update of the parameters.

    The running statistics of batch normalisation are averaged too, because they must fit the averaged
    weights.
    """

    def __init__(self, parameters: Mapping[str, nn.Variable], decay: float, in_blocks: bool) -> None:
        """`decay` 0: no average, empty `arrays`. `in_blocks`: use the functions of `ops.cpu` (CPU only)."""
        self._decay = decay
        self._parameters = {name: v.data for name, v in parameters.items()} if decay else {}
        self.arrays = {name: _copy(array) for name, array in self._parameters.items()}
        self._graph = None if in_blocks or not decay else self._build_graph()

    def update(self) -> None:
        """Update the average with the present parameters."""
        if self._graph is not None:
            self._graph.forward()
            return
        for name, parameter in self._parameters.items():
            update_average(self.arrays[name], parameter, self._decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the network the averaged parameters within the block. No effect if `decay` is 0."""
        originals = {name: _copy(parameter) for name, parameter in self._parameters.items()}
        for name, parameter in self._parameters.items():
            parameter.copy_from(self.arrays[name])
        try:
            yield
        finally:
            for name, parameter in self._parameters.items():
                parameter.copy_from(originals[name])

    def _build_graph(self) -> nn.Variable:
        """A graph whose forward pass updates the average."""
        updates = []
        for name, array in self.arrays.items():
            average, parameter = nn.Variable(array.shape), nn.Variable(array.shape)
            average.data, parameter.data = array, self._parameters[name]
            updates.append(F.assign(average, average * self._decay + parameter * (1 - self._decay)))
        return F.sink(*updates)


def _copy(array: nn.NdArray) -> nn.NdArray:
    copy = nn.NdArray(array.shape)
    copy.copy_from(array)
    return copy
