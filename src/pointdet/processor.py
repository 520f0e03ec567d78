# SPDX-License-Identifier: Apache-2.0
"""Environment variables for OpenBLAS and OpenMP.

They have an effect only if they are set before NumPy is imported. Variables that the user has set are not
changed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pointdet import affinity, launcher

CPUINFO = Path("/proc/cpuinfo")
AVX512 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
# The newest AMD family that the OpenBLAS of NumPy 1.26 knows. On later ones it does not use AVX-512.
LAST_KNOWN_AMD_FAMILY = 25


def settings(cpuinfo: str, environment: Mapping[str, str], cores: int, of_job: int) -> dict[str, str]:
    """The variables to set for this process.

    cpuinfo: text of /proc/cpuinfo. environment: the current variables. cores: number of cores this process
    may use. of_job: those that the job may use on this host. A rank gets its share of them, but not more than its
    own: mpirun binds each of two ranks to one core, with --map-by slot:PE=4 each rank to four, and more ranks to a
    socket, whose cores several ranks share.
    """
    wanted = {}
    fields = dict(line.split(":", 1) for line in cpuinfo.split("\n\n")[0].splitlines() if ":" in line)
    known = {name.strip(): value.strip() for name, value in fields.items()}
    new_amd = known.get("vendor_id") == "AuthenticAMD" and int(known["cpu family"]) > LAST_KNOWN_AMD_FAMILY
    if new_amd and set(known["flags"].split()) >= AVX512:
        wanted["OPENBLAS_CORETYPE"] = "SkylakeX"
    launch = launcher.detect(environment)
    if launch is not None and launch.on_host > 1:
        share = of_job // launch.on_host
        if launch.launcher == "srun":  # it may have given this process cores of its own
            share = int(environment.get("SLURM_CPUS_PER_TASK", share))
        threads = str(max(1, min(cores, share)))
        wanted |= {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
    return {name: value for name, value in wanted.items() if name not in environment}


def prepare() -> None:
    """Set the variables of `settings` in the environment of this process."""
    cpuinfo = CPUINFO.read_text() if CPUINFO.is_file() else ""
    own = affinity.own()
    of_job = affinity.of_mpirun() or own
    os.environ.update(settings(cpuinfo, os.environ, affinity.cores(own), affinity.cores(of_job)))
