# SPDX-License-Identifier: Apache-2.0
"""Environment variables for OpenBLAS and OpenMP.

They have an effect only if they are set before NumPy is imported. Variables that the user has set are not
changed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
AVX512 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
# The newest AMD family that the OpenBLAS of NumPy 1.26 knows. On later ones it does not use AVX-512.
LAST_KNOWN_AMD_FAMILY = 25


def settings(cpuinfo: str, environment: Mapping[str, str], cores: int) -> dict[str, str]:
    """The variables to set for this process.

    cpuinfo: text of /proc/cpuinfo. environment: the current variables. cores: number of cores this process
    may use. mpirun binds each of two ranks to one core, but more ranks to a socket, whose cores all ranks of
    the host share.
    """
    wanted = {}
    fields = dict(line.split(":", 1) for line in cpuinfo.split("\n\n")[0].splitlines() if ":" in line)
    known = {name.strip(): value.strip() for name, value in fields.items()}
    new_amd = known.get("vendor_id") == "AuthenticAMD" and int(known["cpu family"]) > LAST_KNOWN_AMD_FAMILY
    if new_amd and set(known["flags"].split()) >= AVX512:
        wanted["OPENBLAS_CORETYPE"] = "SkylakeX"
    ranks_here = int(environment.get("OMPI_COMM_WORLD_LOCAL_SIZE", "1"))
    if ranks_here > 1:
        threads = str(max(1, cores // ranks_here))
        wanted |= {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
    return {name: value for name, value in wanted.items() if name not in environment}


def prepare() -> None:
    """Set the variables of `settings` in the environment of this process."""
    cpuinfo = CPUINFO.read_text() if CPUINFO.is_file() else ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.update(settings(cpuinfo, os.environ, cores))
