# SPDX-License-Identifier: Apache-2.0
"""How much memory this process can still take, so that a size that is too large is an error and not a killed process."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

from pointdet.errors import PointDetError

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
# Files with the limit and the use of a control group, and the line of memory.stat with the part of the use that the
# system can free: version 2, version 1.
VERSION_2 = ("memory.max", "memory.current", "inactive_file")
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def require(size: int, what: str, fix: str) -> None:
    """Errors: PointDetError if `size` bytes for `what` are more than the memory that is available. Names `fix`."""
    available = available_bytes()
    if size > available:
        raise PointDetError(
            f"{what} needs {_mebibytes(size)}, but {_mebibytes(available)} of memory are available; {fix}"
        )


def available_bytes() -> int:
    """Bytes that this process can still take: the least of what the machine has, its control groups allow (version
    1 and 2, with their parents), and its limits of address space and data (`ulimit -v`, `-d`) allow.

    What cannot be read limits nothing. GPU memory is not considered.
    """
    return max(0, min([_of_machine(), *_of_groups(), *_of_limits()]))


def _of_machine() -> int:
    """MemAvailable of /proc/meminfo, which includes the caches that the system can free."""
    for line in _text(PROC / "meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) << 10
    return 1 << 62


def _of_groups() -> Iterator[int]:
    """What is left below the limit of every control group of this process."""
    for line in _text(PROC / "self" / "cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            root, names = CGROUPS, VERSION_2
        elif "memory" in controllers.split(","):
            root, names = CGROUPS / "memory", VERSION_1
        else:
            continue
        # A container may see its own group as the root, under another path than the one in /proc.
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder == root.parent:
                break
            left = _left(folder, *names)
            if left is not None:
                yield left


def _left(folder: Path, limit: str, use: str, freed: str) -> int | None:
    """Bytes that are left below the limit of a control group, or None if it has no limit."""
    limit_text, use_text = _text(folder / limit).strip(), _text(folder / use).strip()
    if not (limit_text.isdecimal() and use_text.isdecimal()):  # "max", or no such group
        return None
    statistics = dict(
        line.split(" ", 1) for line in _text(folder / "memory.stat").splitlines() if " " in line
    )
    return int(limit_text) - int(use_text) + int(statistics.get(freed, 0))


def _of_limits() -> Iterator[int]:
    pages = _text(PROC / "self" / "statm").split()  # of the address space (0) and of the data (5)
    for kind, column in ((resource.RLIMIT_AS, 0), (resource.RLIMIT_DATA, 5)):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY and len(pages) > column:
            yield limit - int(pages[column]) * resource.getpagesize()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _mebibytes(size: int) -> str:
    return f"{-(-size >> 20):,} MiB"
