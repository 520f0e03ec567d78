# SPDX-License-Identifier: Apache-2.0
"""The interface of the ranks, and a run with one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import nnabla as nn
from nnabla.function import Function

from pointdet.arrays import Float64Array


class GradientSum(Protocol):
    """Sums the gradients of one training graph over the ranks, once per update."""

    @property
    def hook(self) -> Callable[[Function], None] | None:
        """NNabla must call it after each function of the last backward pass of an update, if it is not None."""

    def finish(self) -> None:
        """Call it after that pass. The gradients are then the sums over the ranks."""


class Ranks(Protocol):
    """Communication between the processes of one run."""

    rank: int
    size: int
    local_rank: int

    def sum(self, values: Float64Array) -> Float64Array:
        """The element-wise sum of a small array over all ranks."""

    def gather(self, value: Any) -> list[Any] | None:
        """On rank 0 the values of all ranks in rank order, on the other ranks None."""

    def broadcast(self, value: Any) -> Any:
        """The value of rank 0, on every rank."""

    def on_host(self, value: Any) -> list[Any]:
        """The values of all ranks of this host, in the order of their local ranks."""

    def gradient_sum(self, loss: nn.Variable, gradients: Sequence[nn.NdArray]) -> GradientSum:
        """What sums `gradients`, those of the graph of `loss`."""

    def all_reduce(self, arrays: Sequence[nn.NdArray]) -> None:
        """Sum float32 arrays over the ranks, in place."""

    def saving(self, save: Callable[[], str]) -> AbstractContextManager[None]:
        """Within the block, rank 0 calls `save` before the program ends because the ranks wait for too long.

        Every rank must call it. See `Watchdog.saving`.
        """


class SumAfterBackward:
    """Sums the gradients when the backward pass has ended."""

    hook = None

    def __init__(self, ranks: Ranks, gradients: Sequence[nn.NdArray]) -> None:
        self._ranks, self._gradients = ranks, list(gradients)

    def finish(self) -> None:
        self._ranks.all_reduce(self._gradients)


class SingleProcess:
    """A run with one process."""

    rank, size, local_rank = 0, 1, 0

    def sum(self, values: Float64Array) -> Float64Array:
        return values

    def gather(self, value: Any) -> list[Any] | None:
        return [value]

    def broadcast(self, value: Any) -> Any:
        return value

    def on_host(self, value: Any) -> list[Any]:
        return [value]

    def gradient_sum(self, loss: nn.Variable, gradients: Sequence[nn.NdArray]) -> GradientSum:
        return SumAfterBackward(self, gradients)

    def all_reduce(self, arrays: Sequence[nn.NdArray]) -> None:
        return None

    def saving(self, save: Callable[[], str]) -> AbstractContextManager[None]:
        return nullcontext()
