# SPDX-License-Identifier: Apache-2.0
"""The device, the precision and the rank of this process."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

import nnabla as nn
from nnabla.ext_utils import get_extension_context

from pointdet import launcher
from pointdet.cuda import cards, driver, extension
from pointdet.errors import PointDetError
from pointdet.ops.cpu import onednn_library
from pointdet.ops.cpu.process_state import building
from pointdet.ranks.base import Ranks, SingleProcess
from pointdet.ranks.mpi import MpiRanks
from pointdet.ranks.nccl import NcclRanks

logging.getLogger("nnabla").setLevel(logging.WARNING)  # NNabla logs every solver state that it saves or loads


@dataclass(frozen=True)
class Runtime:
    """The device of this process and its rank."""

    device: str  # "cpu" or "cudnn"
    card: str  # the GPU, as an entry of CUDA_VISIBLE_DEVICES; NNabla's number of it is always 0
    ranks: Ranks
    cpu_kernels: str = "nnabla"  # "blas" or "onednn"

    def context(self, half: bool = False) -> nn.Context:
        """The NNabla context in which functions are created. Contexts can be changed, so each call makes one."""
        if not self.on_cpu:
            return extension.context(half)
        return get_extension_context("cpu", device_id="", type_config="half" if half else "float")

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
        place = f"the CPU ({self.cpu_kernels} kernels)" if self.on_cpu else f"GPU {self.card}"
        return f"rank {self.ranks.rank} of {self.ranks.size} on {place}, NNabla {nn.__version__}"


def start(
    device: str = "cpu",
    gpus: Sequence[int] | None = None,
    cpu_kernels: str = "auto",
    communication_timeout: float = 600.0,
) -> Runtime:
    """Create the runtime of this process and make its context NNabla's default.

    device: "cpu" or "cudnn". gpus: numbers of the GPUs of this host, one for each of its ranks; None for all that
    CUDA_VISIBLE_DEVICES or the driver shows. cpu_kernels: nnabla, blas, onednn or auto. auto is onednn if it is
    installed, otherwise blas. communication_timeout: seconds that a rank waits for the others; 0: no limit.
    Errors: PointDetError if the device does not work or the ranks cannot communicate.
    """
    if device not in ("cpu", "cudnn"):
        raise PointDetError(f"unknown device {device!r}; use cpu or cudnn")
    launch = launcher.detect(os.environ)
    mpi = MpiRanks(launch, communication_timeout) if launch is not None and launch.size != 1 else None
    ranks: Ranks = mpi or SingleProcess()
    card = _start_gpu(gpus, ranks) if device == "cudnn" else ""
    if mpi is not None and device == "cudnn":
        ranks = NcclRanks(mpi, extension.context(half=False))
    runtime = Runtime(device, card, ranks, _resolve_kernels(cpu_kernels))
    with building:
        nn.set_default_context(runtime.context())
    return runtime


def _start_gpu(gpus: Sequence[int] | None, ranks: Ranks) -> str:
    """Start the CUDA extension on the card of this rank, and return the card. Errors: PointDetError."""
    extension.require_installed()
    driver.require()
    if gpus is not None and len(gpus) > 1 and ranks.size == 1:
        raise PointDetError(
            f"--gpus names {len(gpus)} GPUs, but one process uses one; start mpirun -n {len(gpus)}, or name one GPU"
        )
    card = cards.choose(gpus, ranks.on_host(cards.shown()))[ranks.local_rank]
    extension.start(card)
    return card


def _resolve_kernels(cpu_kernels: str) -> str:
    """The kernels for the option `cpu_kernels`. Errors: PointDetError if unknown or not installed."""
    if cpu_kernels == "auto":
        return "onednn" if onednn_library.library_file() else "blas"
    if cpu_kernels not in ("nnabla", "blas", "onednn"):
        raise PointDetError(f"unknown CPU kernels {cpu_kernels!r}; use auto, nnabla, blas or onednn")
    if cpu_kernels == "onednn":
        onednn_library.require()
    return cpu_kernels
