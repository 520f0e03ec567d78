# SPDX-License-Identifier: Apache-2.0
"""The loader's worker process: it receives tasks, fills rows of batches and sends reports."""

from __future__ import annotations

import ctypes
import os
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection

import cv2

from pointdet import affinity
from pointdet.data.batch_builder import BatchBuilder, BatchReport
from pointdet.data.ring_buffer import RingBuffer
from pointdet.errors import PointDetError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


@dataclass(frozen=True)
class Task:
    """Rows of a batch to fill. The worker answers with the slot and a BatchReport or an exception."""

    slot: int  # of the ring buffer
    rows: list[int]
    epoch: int
    indices: list[int]  # images of these rows


def run_worker(
    connection: Connection, buffer: RingBuffer, builder: BatchBuilder, processors: frozenset[int]
) -> None:
    """Answer tasks until the loader closes its end of the connection or dies.

    `processors`: those on which this process shall run.
    """
    if processors != affinity.own():
        os.sched_setaffinity(0, processors)
    cv2.setNumThreads(1)
    _keep_freed_memory()
    try:
        while True:
            task: Task = connection.recv()
            connection.send((task.slot, _run_task(task, buffer, builder)))
    except (EOFError, ConnectionError):
        return


def _keep_freed_memory() -> None:
    """Make malloc keep freed memory. Returning it to the system after each image takes 1/4 of the time."""
    library = ctypes.CDLL(None)
    library.mallopt(M_TRIM_THRESHOLD, 256 << 20)
    library.mallopt(M_MMAP_THRESHOLD, 32 << 20)


def _run_task(task: Task, buffer: RingBuffer, builder: BatchBuilder) -> BatchReport | Exception:
    try:
        return builder.fill(buffer.batches[task.slot], task.rows, task.epoch, task.indices)
    except PointDetError as error:
        return error
    except Exception:  # noqa: BLE001  any exception is raised again in the loader's process
        return RuntimeError(f"in a loader process:\n{traceback.format_exc()}")
