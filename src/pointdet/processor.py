# SPDX-License-Identifier: Apache-2.0
"""How NumPy's BLAS and OpenMP use this processor; must speak before NumPy is imported. What the user set stays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
AVX512 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
LAST_KNOWN_AMD_FAMILY = (
    25  # to the OpenBLAS of NumPy 1.26; a later one it takes for a processor without AVX-512
)


def settings(cpuinfo: str, environment: Mapping[str, str], cores: int) -> dict[str, str]:
    """Environment variables for this process.

    `cpuinfo`: the text of /proc/cpuinfo. `cores`: those that this process may run on. Ranks of one host share them:
    mpirun binds two ranks to a core each, but more ranks to whole sockets.
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
    """Set them."""
    cpuinfo = CPUINFO.read_text() if CPUINFO.is_file() else ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.update(settings(cpuinfo, os.environ, cores))
