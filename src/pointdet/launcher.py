# SPDX-License-Identifier: Apache-2.0
"""The launcher of this process (mpirun, srun, ...), by the environment variables that it sets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """How this process was started."""

    launcher: str
    size: int | None  # processes that the launcher started; None if it does not say
    rank: int  # number of this process
    on_host: int  # processes on this host, 1 if the launcher does not say


@dataclass(frozen=True)
class _Launcher:
    name: str
    size: str  # names of the variables
    rank: str
    on_host: str


# An inner launcher comes before an outer one: mpirun is often started by srun or a batch script.
_LAUNCHERS = (
    _Launcher("mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    _Launcher("the PALS launcher", "PALS_SIZE", "PALS_RANKID", "PALS_LOCAL_SIZE"),
    _Launcher("flux run", "FLUX_JOB_SIZE", "FLUX_TASK_RANK", "FLUX_TASK_LOCAL_SIZE"),
    _Launcher("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_STEP_TASKS_PER_NODE"),
    _Launcher("the PMI launcher", "PMI_SIZE", "PMI_RANK", "MPI_LOCALNRANKS"),  # MPICH, Intel MPI
    _Launcher("the PMIx launcher", "", "PMIX_RANK", ""),
)


def detect(environment: Mapping[str, str]) -> Launch | None:
    """The launcher, or None if the process was started without one."""
    for launcher in _LAUNCHERS:
        size, rank = _number(environment, launcher.size), _number(environment, launcher.rank)
        if size is None and (launcher.size or rank is None):
            continue
        return Launch(launcher.name, size, rank or 0, _on_host(environment, launcher))
    return None


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "")
    return int(text) if text.isdigit() else None


def _on_host(environment: Mapping[str, str], launcher: _Launcher) -> int:
    """Slurm writes a list for all hosts: 2(x3),1 is 2,2,2,1."""
    hosts: list[int] = []
    for entry in environment.get(launcher.on_host, "").split(","):
        if (found := re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", entry)) is not None:
            hosts += [int(found[1])] * int(found[2] or 1)
    host = (_number(environment, "SLURM_NODEID") or 0) if launcher.name == "srun" else 0
    return hosts[host] if host < len(hosts) else 1
