# SPDX-License-Identifier: Apache-2.0
"""The device under test: start, synchronisation, memory, and functions that NNabla runs on the CPU."""

from __future__ import annotations

import gc
import os
import subprocess
from typing import Any

import nnabla as nn

from pointdet import runtime as runtimes
from pointdet.ranks.mpi import MpiRanks
from pointdet.runtime import Runtime

# Functions that only run other functions. Those of a checkpoint are not visited here; operations.py checks
# them in the graph of inference.
NOT_COMPUTED = {"Sink", "Checkpoint"}


class SeparateHosts(MpiRanks):
    """Ranks that see no other rank on their host."""

    def __init__(self, expected: int) -> None:
        super().__init__(expected)
        self.local_rank = 0

    def on_host(self, value: Any) -> list[Any]:
        return [value]


def start(device: str, share_card: bool = False) -> Runtime:
    """The runtime of `device`, with NNabla's own functions on the CPU.

    share_card: all ranks use the first card. NCCL refuses two ranks of one host on one card, so each rank
    gets a host name of its own.
    """
    if share_card:
        os.environ["NCCL_HOSTID"] = os.environ.get("OMPI_COMM_WORLD_RANK", "0")
        runtimes.MpiRanks = SeparateHosts
    return runtimes.start(device, cpu_kernels="nnabla")


def synchronise(runtime: Runtime) -> None:
    """Wait until the card has finished all work."""
    if not runtime.on_cpu:
        import nnabla_ext.cuda

        nnabla_ext.cuda.synchronize("0")  # the only card that a rank sees


def functions_on_cpu(runtime: Runtime, *outputs: nn.Variable) -> list[str]:
    """Types of the functions of a graph that NNabla would run on the CPU; empty if the CPU is the device.

    NNabla gives no warning if a function has no CUDA implementation.
    """
    found: set[str] = set()

    def visit(function: nn.function.Function) -> None:
        if "Cuda" not in function.info.type_name:
            found.add(function.info.type_name)

    for output in outputs:
        output.visit(visit)
    return [] if runtime.on_cpu else sorted(found - NOT_COMPUTED)


def free_memory(runtime: Runtime) -> None:
    """Give the memory of deleted arrays back to the device."""
    gc.collect()
    if not runtime.on_cpu:
        import nnabla_ext.cuda

        nnabla_ext.cuda.clear_memory_cache()


def memory_in_use(runtime: Runtime) -> int:
    """MiB in use on the card, by all processes. 0 on a CPU."""
    return 0 if runtime.on_cpu else int(_ask_driver("memory.used").split()[0])


def describe(runtime: Runtime) -> str:
    """One line about the device."""
    card = "" if runtime.on_cpu else f"; {_ask_driver('name,driver_version,memory.total')}"
    return f"{runtime.describe()}{card}"


def _ask_driver(fields: str) -> str:
    """Properties of the card in use. nvidia-smi is part of the driver."""
    card = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    command = ["nvidia-smi", f"--id={card}", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
