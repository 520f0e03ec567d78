# SPDX-License-Identifier: Apache-2.0
"""The device, the precision and the rank of this process."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import nnabla as nn
from nnabla.ext_utils import get_extension_context

from pointdet.device import require_cuda
from pointdet.errors import PointDetError
from pointdet.ops.cpu import onednn
from pointdet.ranks.base import Ranks, SingleProcess
from pointdet.ranks.mpi import MpiRanks
from pointdet.ranks.nccl import NcclRanks


@dataclass(frozen=True)
class Runtime:
    """The device of this process and its rank."""

    device: str  # "cpu" or "cudnn"
    device_id: str
    ranks: Ranks
    cpu_kernels: str = "nnabla"  # "blas" or "onednn"

    def context(self, half: bool = False) -> nn.Context:
        """The NNabla context in which functions are created."""
        return get_extension_context(
            self.device, device_id=self.device_id, type_config="half" if half else "float"
        )

    def norm_context(self, half: bool) -> nn.Context:
        """The context for batch normalisation.

        cuDNN computes the statistics of half precision maps in float32. The CPU would sum in half precision
        and overflow, so it always gets the float context.
        """
        return self.context(half and not self.on_cpu)

    @property
    def on_cpu(self) -> bool:
        return self.device == "cpu"

    @property
    def has_channel_last(self) -> bool:
        """Whether convolution and pooling support NHWC; NNabla's CPU functions do not."""
        return not self.on_cpu

    def kernels(self, half: bool) -> str:
        """The kernels in use: nnabla, blas or onednn. Those of `ops.cpu` support only float32."""
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
    """Create the runtime of this process and make its context NNabla's default.

    device: "cpu" or "cudnn". gpu: number of the GPU; under mpirun rank r of a host uses GPU `gpu + r`.
    cpu_kernels: nnabla, blas, onednn or auto. auto is onednn if it is installed, otherwise blas.
    Errors: PointDetError if the device does not work or the ranks cannot communicate.
    """
    if device not in ("cpu", "cudnn"):
        raise PointDetError(f"unknown device {device!r}; use cpu or cudnn")
    expected = int(os.environ.get("OMPI_COMM_WORLD_SIZE", os.environ.get("PMI_SIZE", "1")))
    ranks: Ranks = MpiRanks(expected) if expected > 1 else SingleProcess()
    device_id = str(gpu + ranks.local_rank) if device == "cudnn" else ""
    runtime = Runtime(device, device_id, ranks, _resolve_kernels(cpu_kernels))
    if not runtime.on_cpu:
        require_cuda(int(device_id))
    if not runtime.on_cpu and isinstance(ranks, MpiRanks):
        runtime = replace(runtime, ranks=NcclRanks(ranks, runtime.context()))
    nn.set_default_context(runtime.context())
    return runtime


def _resolve_kernels(cpu_kernels: str) -> str:
    """The kernels for the option `cpu_kernels`. Errors: PointDetError if unknown or not installed."""
    if cpu_kernels == "auto":
        return "onednn" if onednn.library_file() else "blas"
    if cpu_kernels not in ("nnabla", "blas", "onednn"):
        raise PointDetError(f"unknown CPU kernels {cpu_kernels!r}; use auto, nnabla, blas or onednn")
    if cpu_kernels == "onednn":
        onednn.require()
    return cpu_kernels
