# SPDX-License-Identifier: Apache-2.0
"""The processes (ranks) of one run: a single process, or several under mpirun that use MPI and NCCL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import nnabla as nn
import numpy as np
from nnabla import communicators
from nnabla.ext_utils import get_extension_context

from pointdet.arrays import Float64Array
from pointdet.device import require_cuda
from pointdet.errors import PointDetError, last_line

# Number of gradient values in one NCCL call during backward: 8 MiB of float32, as in NNabla's examples.
PACK_SIZE = 2 << 20


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

    def backward_callback(self, gradients: Sequence[nn.NdArray]) -> Any:
        """A callback for backward that sums the gradients over the ranks; None if the device has none."""

    def all_reduce(self, gradients: Sequence[nn.NdArray]) -> None:
        """Sum the gradients over the ranks in place. Used if `backward_callback` returns None."""


class SingleProcess:
    """A run with one process."""

    rank, size, local_rank = 0, 1, 0

    def sum(self, values: Float64Array) -> Float64Array:
        return values

    def gather(self, value: Any) -> list[Any] | None:
        return [value]

    def broadcast(self, value: Any) -> Any:
        return value

    def backward_callback(self, gradients: Sequence[nn.NdArray]) -> Any:
        return None

    def all_reduce(self, gradients: Sequence[nn.NdArray]) -> None:
        return None


class MpiRanks:
    """Processes under mpirun. A CPU run sends everything through MPI, a GPU run everything but the gradients.

    Errors: PointDetError if mpi4py is missing or belongs to another MPI installation than mpirun.
    """

    def __init__(self, expected: int) -> None:
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise PointDetError(
                f"started under mpirun with {expected} ranks, but mpi4py cannot be used "
                f"({last_line(error)}); install Open MPI and mpi4py, or start one process without mpirun"
            ) from None
        self._mpi = MPI
        self._world = MPI.COMM_WORLD
        self.rank, self.size = self._world.rank, self._world.size
        if self.size != expected:
            raise PointDetError(
                f"mpirun started {expected} ranks, but MPI sees {self.size}; "
                "mpi4py belongs to another MPI than this mpirun; use the mpirun of the same environment"
            )
        self.local_rank = self._world.Split_type(MPI.COMM_TYPE_SHARED).rank
        self._buffer = np.zeros(0, np.float32)

    def sum(self, values: Float64Array) -> Float64Array:
        total = np.empty_like(values)
        self._world.Allreduce(values, total)
        return total

    def gather(self, value: Any) -> list[Any] | None:
        return self._world.gather(value)

    def broadcast(self, value: Any) -> Any:
        return self._world.bcast(value)

    def backward_callback(self, gradients: Sequence[nn.NdArray]) -> Any:
        return None

    def all_reduce(self, gradients: Sequence[nn.NdArray]) -> None:
        # All gradients are copied into one buffer: that is faster than one message for each parameter.
        sizes = [gradient.size for gradient in gradients]
        if self._buffer.size != sum(sizes):
            self._buffer = np.empty(sum(sizes), np.float32)
        parts = np.split(self._buffer, np.cumsum(sizes)[:-1])
        for part, gradient in zip(parts, gradients, strict=True):
            part[...] = gradient.data.reshape(-1)
        self._world.Allreduce(self._mpi.IN_PLACE, self._buffer)
        for part, gradient in zip(parts, gradients, strict=True):
            gradient.cast(np.float32)[...] = part.reshape(gradient.shape)


class NcclRanks(MpiRanks):
    """Processes under mpirun with one GPU each. NCCL sums the gradients during backward.

    expected: number of ranks. gpu: GPU of the first rank on a host, `gpu + local_rank` of the others.
    Errors: PointDetError if MPI, the GPU or NCCL does not work.
    """

    def __init__(self, expected: int, gpu: int) -> None:
        super().__init__(expected)
        gpu += self.local_rank
        require_cuda(gpu)
        # With a float context half gradients are summed in float32, so that the sum of scaled gradients
        # cannot overflow.
        context = get_extension_context("cudnn", device_id=str(gpu), type_config="float")
        try:
            self._communicator = communicators.MultiProcessDataParallelCommunicator(context)
            self._communicator.init()
        except Exception as error:  # noqa: BLE001  any C++ exception of CUDA, NCCL or MPI
            raise PointDetError(
                f"NNabla has no working NCCL communicator ({last_line(error)}); "
                "install NCCL >= 2.10 and Open MPI where the CUDA extension finds them (see Dockerfile)"
            ) from None

    def backward_callback(self, gradients: Sequence[nn.NdArray]) -> Any:
        return self._communicator.all_reduce_callback(list(gradients), PACK_SIZE, division=False)
