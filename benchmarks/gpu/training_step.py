# SPDX-License-Identifier: Apache-2.0
"""A training step of one model in its parts. All checks use the package's training through this class."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import nnabla as nn
import numpy as np
from comparison import nchw

from pointdet.arrays import Arrays, Batch, Float64Array
from pointdet.model.restore import Model
from pointdet.ops.mode import Mode
from pointdet.training import graph
from pointdet.training.solver import Solver

Hook = Callable[[nn.function.Function], None]


class TrainingStep:
    """The training graph of a model, and the solver of the trainer."""

    def __init__(self, model: Model, running_statistics: bool = False) -> None:
        """running_statistics: normalise with them. Otherwise with those of the batch, as in training."""
        self._model = model
        self.parameters = model.detector.parameters()
        mode = (lambda **settings: Mode(**settings | {"training": False})) if running_statistics else Mode
        with mock.patch.object(graph, "Mode", mode):
            self._graph = graph.TrainingGraph(model.config, model.detector, model.runtime)
        self._solver = Solver(model.config.train, model.config.mixed_precision, self.parameters)
        self._sum = model.runtime.ranks.gradient_sum(self.total, self._solver.gradients)

    @property
    def scale(self) -> float:
        """The loss scale."""
        return self._solver.loss_scale.value

    @property
    def skipped(self) -> int:
        """Steps whose gradients overflowed."""
        return self._solver.loss_scale.skipped_steps

    @property
    def total(self) -> nn.Variable:
        """The loss, a number."""
        return self._graph.terms["total"]

    @property
    def inputs(self) -> dict[str, nn.Variable]:
        """The variables of a batch, by name."""
        return self._graph.inputs

    def __call__(self, batch: Batch, learning_rate: float = 1e-4) -> None:
        """A whole step of one rank."""
        self.begin()
        self.forward(batch)
        self.backward()
        self.update(learning_rate)

    def begin(self) -> None:
        """Set the gradients to zero."""
        self._solver.begin()

    def feed(self, batch: Batch, divisors: Float64Array | None = None) -> None:
        """The first part of `forward`: copy a batch to the inputs of the graph.

        divisors: of the loss, sums over the ranks; of this batch by default.
        """
        self._graph.feed(batch, self._divisors(batch) if divisors is None else divisors)

    def send(self) -> None:
        """Send the inputs to the device. Otherwise the forward pass does it."""
        for variable in self.inputs.values():
            variable.data.data_ptr(variable.data.dtype, self._model.runtime.context())

    def forward_again(self, **hooks: Hook) -> None:
        """Compute the loss of the batch that is in the inputs."""
        self.total.forward(clear_no_need_grad=True, **hooks)

    def forward(self, batch: Batch, divisors: Float64Array | None = None) -> None:
        """Compute the loss of a batch. divisors: see `feed`."""
        self._graph.forward(batch, self._divisors(batch) if divisors is None else divisors)

    def terms(self) -> dict[str, float]:
        """The loss terms of the last forward pass. It waits for the device."""
        return self._graph.values()

    def backward(self) -> None:
        """Add the gradients of this rank's batch, times the loss scale."""
        self._graph.backward(self.scale)

    def backward_with_hooks(self, **hooks: Hook) -> None:
        self.total.backward(self.scale, clear_buffer=True, **hooks)

    def backward_and_sum(self) -> None:
        """`backward`, and the sum of the gradients over all ranks, as in the trainer."""
        self._graph.backward(self.scale, self._sum.hook)
        self._sum.finish()

    def sum_statistics(self) -> None:
        """Sum the running statistics over all ranks, as before a validation."""
        arrays = [v.data for v in self.parameters.values() if not v.need_grad]
        self._model.runtime.ranks.all_reduce(arrays)

    def update(self, learning_rate: float) -> None:
        self._solver.update(learning_rate)

    def gradients(self) -> Arrays:
        """The gradients by name, NCHW, without the loss scale."""
        return {
            name: self._in_nchw(name, np.array(v.g, np.float32) / self.scale)
            for name, v in self.parameters.items()
            if v.need_grad
        }

    def statistics(self) -> Arrays:
        """The running statistics of batch normalisation, by name."""
        return {
            name: np.array(v.d, np.float32).ravel() for name, v in self.parameters.items() if not v.need_grad
        }

    def _divisors(self, batch: Batch) -> Float64Array:
        return self._model.detector.loss.count(batch)

    def _in_nchw(self, name: str, array: np.ndarray) -> np.ndarray:
        if not name.endswith("/W"):
            return array.ravel()
        return nchw(array) if self._model.detector.channel_last else array
