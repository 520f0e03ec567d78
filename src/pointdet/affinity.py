# SPDX-License-Identifier: Apache-2.0
"""The cores on which processes may run: those of this process, and those of the mpirun that bound it to fewer."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

# The processes of Open MPI that start ranks: of versions 5 and 4, on the host of mpirun and on others.
MPIRUN = {"mpirun", "prterun", "prted", "orterun", "orted"}
KEEP = "POINTDET_KEEP_BINDING"  # environment variable: do not widen what mpirun has bound
MOST_ANCESTORS = 8

CPUS = Path("/sys/devices/system/cpu")
PROC = Path("/proc")


def own() -> frozenset[int]:
    """The logical processors on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def of_mpirun() -> frozenset[int] | None:
    """The logical processors of the mpirun that started this process; None if no mpirun of Open MPI did.

    mpirun binds its ranks, not itself: it has the processors that the user (taskset) or the scheduler (a cpuset)
    gave to the job on this host.
    """
    process = os.getppid()
    for _ in range(MOST_ANCESTORS):  # a shell script may be between mpirun and this process
        try:
            name = (PROC / str(process) / "comm").read_text().strip()
            if name in MPIRUN:
                return frozenset(os.sched_getaffinity(process))
            process = int((PROC / str(process) / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, AttributeError):  # no /proc, another user's process, no Linux
            return None
    return None


def cores(processors: Collection[int]) -> int:
    """Number of cores. A core has one or several logical processors."""
    found = set()
    for processor in processors:
        file = CPUS / f"cpu{processor}" / "topology" / "thread_siblings_list"
        found.add(file.read_text() if file.is_file() else str(processor))
    return max(1, len(found))


def for_workers(
    count: int, rank: frozenset[int], mpirun: frozenset[int] | None, environment: Mapping[str, str]
) -> frozenset[int]:
    """The processors of the `count` loader processes of a rank.

    They are those of the rank, unless mpirun has bound it to too few cores for itself and them: then those of
    mpirun. POINTDET_KEEP_BINDING=1 keeps the binding.
    """
    if (
        mpirun is None
        or not rank < mpirun
        or cores(rank) > count
        or environment.get(KEEP, "") not in ("", "0")
    ):
        return rank
    return mpirun
