# SPDX-License-Identifier: Apache-2.0
"""Ranks that communicate through MPI: those of a run on CPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import nnabla as nn
import numpy as np

from pointdet.arrays import Float64Array
from pointdet.errors import PointDetError, last_line
from pointdet.launcher import Launch
from pointdet.ops.cpu.memory import view
from pointdet.ranks.base import GradientSum, SumAfterBackward
from pointdet.ranks.watchdog import Watchdog


class MpiRanks:
    """Processes under mpirun. Everything goes through MPI."""

    def __init__(self, launch: Launch, timeout: float) -> None:
        """`timeout`: runtime.communication_timeout, seconds.

        Errors: PointDetError if mpi4py is missing or belongs to another MPI installation than mpirun.
        """
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise PointDetError(
                f"started by {launch.launcher} with {launch.size or 'several'} ranks, but mpi4py cannot be used "
                f"({last_line(error)}); install Open MPI and mpi4py, or start one process without "
                f"{launch.launcher}"
            ) from None
        self._mpi = MPI
        self._world = MPI.COMM_WORLD
        self.rank, self.size = self._world.rank, self._world.size
        if self.size != launch.size and launch.size is not None:
            how = "use the mpirun that belongs to the MPI of mpi4py"
            if launch.launcher == "srun":
                how = "start with srun --mpi=pmix, or with mpirun inside the allocation"
            raise PointDetError(
                f"{launch.launcher} started {launch.size} processes, but MPI sees {self.size}; {how}"
            )
        self.watchdog = Watchdog(self.rank, timeout)
        with self.watchdog:
            self._host = self._world.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank = self._host.rank
        self._buffer = np.zeros(0, np.float32)

    def sum(self, values: Float64Array) -> Float64Array:
        total = np.empty_like(values)
        with self.watchdog:
            self._world.Allreduce(values, total)
        return total

    def gather(self, value: Any) -> list[Any] | None:
        with self.watchdog:
            return self._world.gather(value)

    def broadcast(self, value: Any) -> Any:
        with self.watchdog:
            return self._world.bcast(value)

    def on_host(self, value: Any) -> list[Any]:
        with self.watchdog:
            return list(self._host.allgather(value))

    def gradient_sum(self, loss: nn.Variable, gradients: Sequence[nn.NdArray]) -> GradientSum:
        return SumAfterBackward(self, gradients)

    def all_reduce(self, arrays: Sequence[nn.NdArray]) -> None:
        # All arrays are copied into one buffer: that is faster than one message for each array.
        values = [view(array).reshape(-1) for array in arrays]
        ends = np.cumsum([len(part) for part in values])
        if self._buffer.size != ends[-1]:
            self._buffer = np.empty(ends[-1], np.float32)
        np.concatenate(values, out=self._buffer)
        with self.watchdog:
            self._world.Allreduce(self._mpi.IN_PLACE, self._buffer)
        for part, total in zip(values, np.split(self._buffer, ends[:-1]), strict=True):
            part[...] = total

    def saving(self, save: Callable[[], str]) -> AbstractContextManager[None]:
        return self.watchdog.saving(save)
