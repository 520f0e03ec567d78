# SPDX-License-Identifier: Apache-2.0
"""Reads a dataset once on each host: the other ranks of the host map the memory of its reader."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from typing import TYPE_CHECKING

from pointdet.arrays import AnyArray
from pointdet.data import record_table
from pointdet.data.record_table import RecordTable
from pointdet.data.shared_arrays import Layout, SharedArrays
from pointdet.errors import PointDetError
from pointdet.structures import Dataset

if TYPE_CHECKING:
    from pointdet.ranks.base import Ranks


def read_once_per_host(read: Callable[[], Dataset], ranks: Ranks) -> Dataset:
    """The result of `read`, which only the first rank of each host calls. Every rank must call this function.

    Errors: PointDetError if `read` raises it on any host, on all ranks.
    """
    dataset, fault = None, None
    if ranks.local_rank == 0:
        try:
            dataset = read()
        except PointDetError as error:
            fault = error.args[0] if ranks.rank == 0 else f"host {platform.node()}: {error.args[0]}"
    faults = ranks.broadcast(ranks.gather(fault))
    if any(faults):
        raise PointDetError(next(filter(None, faults)))
    return _of_host(dataset, ranks)


def _of_host(dataset: Dataset | None, ranks: Ranks) -> Dataset:
    """The dataset of the first rank of this host, on every rank of it. `dataset`: None on the others."""
    table = None if dataset is None else RecordTable.of(dataset.records)
    offer = None
    if dataset is not None and table is not None:
        names = (dataset.name, dataset.class_names, dataset.category_ids)
        descriptor = table.memory.descriptor
        offer = names, table.memory.layout, f"/proc/{os.getpid()}/fd/{descriptor}", _identity(descriptor)
    names, layout, file, identity = ranks.on_host(offer)[0]
    if table is None:
        table = _mapped(layout, file, identity)
    # All ranks must make the same calls, and the reader must keep its memory until the others have mapped it.
    if not all(ranks.on_host(table is not None)):
        content = ranks.on_host(table.memory.arrays if dataset is not None and table is not None else None)[0]
        table = table or _copied(layout, content)
    assert table is not None
    return Dataset(names[0], table, *names[1:])


def _mapped(layout: Layout, file: str, identity: tuple[int, int]) -> RecordTable | None:
    """The table in the memory of another process of this host, or None where processes cannot see each other, for
    example in containers of their own."""
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    if _identity(descriptor) != identity:  # a process of this container with the same number
        os.close(descriptor)
        return None
    return RecordTable(SharedArrays(layout, descriptor))


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _copied(layout: Layout, content: dict[str, AnyArray]) -> RecordTable:
    memory = SharedArrays.allocate(layout, record_table.WHAT, record_table.FIX)
    for name, array in content.items():
        memory.arrays[name][...] = array
    return RecordTable(memory)
