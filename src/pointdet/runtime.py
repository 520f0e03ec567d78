# SPDX-License-Identifier: Apache-2.0
"""Where am I: device, precision, ranks, and the way out. The only place that knows ranks and devices."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

logging.disable(logging.INFO)  # NNabla greets when it is imported

import nnabla as nn
import nnabla.functions as F
from nnabla import communicators
from nnabla.ext_utils import get_extension_context

from pointdet.errors import PointDetError
from pointdet.ops.cpu import onednn

logging.disable(logging.NOTSET)
logging.getLogger("nnabla").setLevel(logging.WARNING)  # it tells of every solver state

# Gradients handed to NCCL at once while backward goes on, in values: 8 MiB of float32, as NNabla's examples use.
PACK_SIZE = 2 << 20


class Ranks(Protocol):
    """The processes of one run."""

    rank: int
    size: int
    local_rank: int

    def sum(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Element-wise sum of a small array over all ranks."""

    def gather(self, value: Any) -> list[Any] | None:
        """The values of all ranks in rank order on rank 0, None elsewhere."""

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value everywhere."""

    def backward_callback(self, gradients: Sequence[nn.NdArray]) -> Any:
        """What sums the gradients over the ranks while backward goes on, or None where the device cannot."""

    def all_reduce(self, gradients: Sequence[nn.NdArray]) -> None:
        """Sum the gradients over the ranks, in place; for devices without `backward_callback`."""


class Alone:
    """A run of one process."""

    rank, size, local_rank = 0, 1, 0

    def sum(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
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
    """Processes under mpirun that meet through MPI: all of a CPU run, the small talk of a GPU run."""

    def __init__(self, expected: int) -> None:
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise PointDetError(
                f"started under mpirun with {expected} ranks, but mpi4py cannot be used ({_brief(error)}); "
                "install Open MPI and mpi4py, or start one process without mpirun"
            ) from None
        self._mpi = MPI
        self._world = MPI.COMM_WORLD
        self.rank, self.size = self._world.rank, self._world.size
        if self.size != expected:
            raise PointDetError(
                f"mpirun started {expected} ranks, but MPI sees {self.size}; "
                "mpi4py belongs to another MPI than this mpirun: use the mpirun of the same environment"
            )
        self.local_rank = self._world.Split_type(MPI.COMM_TYPE_SHARED).rank
        self._buffer = np.zeros(0, np.float32)

    def sum(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
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
        # One flat buffer, kept between steps: a message per parameter costs more than the copies.
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
    """Processes under mpirun with a GPU each: gradients through NCCL, overlapped with backward."""

    def __init__(self, expected: int, gpu: int) -> None:
        super().__init__(expected)
        gpu += self.local_rank
        _require_cuda(gpu)
        # Float context: half gradients are summed in float32, where world size times loss scale cannot overflow.
        context = get_extension_context("cudnn", device_id=str(gpu), type_config="float")
        try:
            self._communicator = communicators.MultiProcessDataParallelCommunicator(context)
            self._communicator.init()
        except Exception as error:  # noqa: BLE001  whatever C++ throws: CUDA, NCCL, MPI
            raise PointDetError(
                f"NNabla has no working NCCL communicator ({_brief(error)}); "
                "install NCCL >= 2.10 and Open MPI where the CUDA extension finds them (see Dockerfile)"
            ) from None

    def backward_callback(self, gradients: Sequence[nn.NdArray]) -> Any:
        return self._communicator.all_reduce_callback(list(gradients), PACK_SIZE, division=False)


@dataclass(frozen=True)
class Runtime:
    """The device of this process and its place among the others."""

    device: str  # "cpu" or "cudnn"
    device_id: str
    ranks: Ranks
    cpu_kernels: str = "nnabla"  # "blas" or "onednn"

    def context(self, half: bool = False) -> nn.Context:
        """The NNabla context that functions are created in."""
        return get_extension_context(
            self.device, device_id=self.device_id, type_config="half" if half else "float"
        )

    def norm_context(self, half: bool) -> nn.Context:
        """That of batch normalisation. cuDNN normalises half maps in float32; the CPU sums in half what it is given."""
        return self.context(half and not self.on_cpu)

    @property
    def on_cpu(self) -> bool:
        return self.device == "cpu"

    @property
    def has_channel_last(self) -> bool:
        """Whether convolution and pooling take NHWC; NNabla's CPU functions do not."""
        return not self.on_cpu

    def kernels(self, half: bool) -> str:
        """Whose functions compute: those of `ops.cpu` know float32 on the CPU only."""
        return self.cpu_kernels if self.on_cpu and not half else "nnabla"

    def describe(self) -> str:
        """One line for the log."""
        place = (
            f"the CPU ({self.cpu_kernels} kernels)"
            if self.on_cpu
            else f"{self.device} device {self.device_id}"
        )
        return f"rank {self.ranks.rank} of {self.ranks.size} on {place}, NNabla {nn.__version__}"


def start(device: str = "cpu", gpu: int = 0, cpu_kernels: str = "auto") -> Runtime:
    """The runtime of this process: 'cpu' or 'cudnn'; under mpirun rank r of a host takes its GPU `gpu + r`.

    `cpu_kernels`: nnabla, blas, onednn, or auto: onednn where it is installed, otherwise blas.
    Errors: PointDetError when the device does not work or when mpirun's ranks cannot talk to each other.
    """
    if device not in ("cpu", "cudnn"):
        raise PointDetError(f"unknown device {device!r}; use cpu or cudnn")
    expected = int(os.environ.get("OMPI_COMM_WORLD_SIZE", os.environ.get("PMI_SIZE", "1")))
    ranks: Ranks = Alone()
    if expected > 1:
        ranks = NcclRanks(expected, gpu) if device == "cudnn" else MpiRanks(expected)
    elif device == "cudnn":
        _require_cuda(gpu)
    device_id = str(gpu + ranks.local_rank) if device == "cudnn" else ""
    runtime = Runtime(device, device_id, ranks, chosen(cpu_kernels))
    nn.set_default_context(runtime.context())
    return runtime


def chosen(cpu_kernels: str) -> str:
    """What `runtime.cpu_kernels` comes to here. Errors: PointDetError for what is unknown or not installed."""
    if cpu_kernels == "auto":
        return "onednn" if onednn.library_file() else "blas"
    if cpu_kernels not in ("nnabla", "blas", "onednn"):
        raise PointDetError(f"unknown CPU kernels {cpu_kernels!r}; use auto, nnabla, blas or onednn")
    if cpu_kernels == "onednn":
        onednn.require()
    return cpu_kernels


def _require_cuda(gpu: int) -> None:
    """NNabla falls back to the CPU in silence; here it stops."""
    try:
        context = get_extension_context("cudnn", device_id=str(gpu), type_config="float")
        with nn.context_scope(context):
            probe = F.relu(nn.Variable((1,)))
            probe.forward()
    except Exception as error:  # noqa: BLE001  whatever C++ throws, or no extension at all
        raise PointDetError(
            f"the GPU cannot be used ({_brief(error)}); install nnabla-ext-cuda120 with CUDA 12 and cuDNN 8, "
            "or choose --extension_module cpu"
        ) from None
    if "Cuda" not in probe.parent.info.type_name:
        raise PointDetError(
            "NNabla answers from the CPU although cudnn was asked; check the CUDA installation"
        )


def _brief(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def door(main: Callable[[], int | None]) -> None:
    """Run a program's `main`: a PointDetError becomes one line and status 2, and no rank is left waiting.

    A status that `main` returns is that of all ranks.
    """
    failed = True
    try:
        status, failed = main() or 0, False
    except PointDetError as error:
        status = 2
        _let_rank_0_speak()
        print(f"error: {error}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        status = 130
        print("interrupted", file=sys.stderr, flush=True)
    except BrokenPipeError:
        status = 141
    except Exception:
        _abort_ranks_after(sys.exc_info()[1])
        raise
    if failed:
        _abort_ranks_after(None, status)
    sys.exit(status)


def _let_rank_0_speak() -> None:
    """What stops all ranks is said once: the others only speak if rank 0 has not ended the run before."""
    if int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK", "0"))) > 0:
        time.sleep(1)


def _abort_ranks_after(error: BaseException | None, status: int = 1) -> None:
    mpi4py = sys.modules.get("mpi4py.MPI")
    if mpi4py is None or not mpi4py.Is_initialized() or mpi4py.COMM_WORLD.size == 1:
        return
    if error is not None:
        logging.getLogger("pointdet").error("rank %d failed", mpi4py.COMM_WORLD.rank, exc_info=error)
    sys.stderr.flush()
    sys.stdout.flush()
    time.sleep(0.3)  # mpirun has much to say about an abort; let it hand on our own sentence before
    mpi4py.COMM_WORLD.Abort(status)
