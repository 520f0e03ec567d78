# SPDX-License-Identifier: Apache-2.0
"""Ranks with one GPU each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import nnabla as nn
import numpy as np

from pointdet.arrays import Float64Array
from pointdet.ranks.base import GradientSum
from pointdet.ranks.gradient_buckets import BUCKET_BYTES, GradientBuckets
from pointdet.ranks.mpi import MpiRanks
from pointdet.ranks.nccl_library import Nccl


class NcclRanks:
    """Processes under mpirun with one GPU each. NCCL sums the gradients, MPI does everything else.

    Errors: PointDetError if NCCL does not work.
    """

    def __init__(self, mpi: MpiRanks, context: nn.Context, bucket_bytes: int = BUCKET_BYTES) -> None:
        """`context`: the GPU of this rank in float32. Half gradients are summed in float32 too, so that the
        sum of scaled gradients cannot overflow.
        """
        self._mpi, self._context, self._bucket_bytes = mpi, context, bucket_bytes
        self.rank, self.size, self.local_rank = mpi.rank, mpi.size, mpi.local_rank
        self._nccl = Nccl()
        unique_id = mpi.broadcast(self._nccl.unique_id() if mpi.rank == 0 else None)
        with mpi.watchdog:
            self._nccl.join(unique_id, mpi.rank, mpi.size)
        mpi.watchdog.watch_gpu(self._nccl.unfinished_since)

    def sum(self, values: Float64Array) -> Float64Array:
        return self._mpi.sum(values)

    def gather(self, value: Any) -> list[Any] | None:
        return self._mpi.gather(value)

    def broadcast(self, value: Any) -> Any:
        return self._mpi.broadcast(value)

    def on_host(self, value: Any) -> list[Any]:
        return self._mpi.on_host(value)

    def gradient_sum(self, loss: nn.Variable, gradients: Sequence[nn.NdArray]) -> GradientSum:
        return GradientBuckets(
            self._nccl, self._mpi.broadcast, loss, gradients, self._context, self._bucket_bytes
        )

    def all_reduce(self, arrays: Sequence[nn.NdArray]) -> None:
        self._nccl.sum([(array.data_ptr(np.float32, self._context), array.size) for array in arrays])
        self._nccl.wait()

    def saving(self, save: Callable[[], str]) -> AbstractContextManager[None]:
        return self._mpi.saving(save)
