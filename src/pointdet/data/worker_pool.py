# SPDX-License-Identifier: Apache-2.0
"""Worker pools, which fill batches of the ring buffer: in the calling process or in worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Protocol

from pointdet import affinity
from pointdet.data.batch_builder import BatchBuilder, BatchReport
from pointdet.data.ring_buffer import RingBuffer
from pointdet.data.worker import Task, run_worker
from pointdet.errors import PointDetError, first_few
from pointdet.stop_request import StopRequest

PATIENCE = 60.0  # seconds
MAX_NAMED = 4  # images in the message on a worker that hangs


class WorkerPool(Protocol):
    def submit(self, slot: int, epoch: int, indices: list[int]) -> None:
        """Request the batch of a slot."""

    def collect(self, slot: int) -> list[BatchReport]:
        """Wait until the batch of a slot is complete.

        Errors: those of BatchBuilder.fill; PointDetError if a worker died.
        """

    def close(self) -> None: ...


class SingleProcessPool:
    """`collect` fills the batch in the calling process."""

    def __init__(self, buffer: RingBuffer, builder: BatchBuilder) -> None:
        self._buffer, self._builder = buffer, builder
        self._pending: dict[int, tuple[int, list[int]]] = {}  # slot -> epoch, image indices

    def submit(self, slot: int, epoch: int, indices: list[int]) -> None:
        self._pending[slot] = (epoch, indices)

    def collect(self, slot: int) -> list[BatchReport]:
        if slot not in self._pending:
            return []
        epoch, indices = self._pending.pop(slot)
        return [self._builder.fill(self._buffer.batches[slot], range(len(indices)), epoch, indices)]

    def close(self) -> None:
        self._pending.clear()


class MultiProcessPool:
    """`count` spawned processes; each fills some rows of every batch."""

    def __init__(
        self, buffer: RingBuffer, builder: BatchBuilder, count: int, patience: float = PATIENCE
    ) -> None:
        """`patience`: seconds without an answer of any worker after which a worker counts as hanging."""
        self._patience = patience
        self._records = builder.records
        self._pending = [0] * buffer.slots  # unanswered tasks of each slot
        self._tasks: dict[Connection, list[Task]] = {}  # unanswered tasks of each worker, the oldest first
        self._reports: list[list[BatchReport]] = [[] for _ in range(buffer.slots)]
        self._workers: dict[Connection, SpawnProcess] = {}
        context = multiprocessing.get_context("spawn")
        processors = affinity.for_workers(count, affinity.own(), affinity.of_mpirun(), os.environ)
        # Children inherit the signal mask. Only this process handles StopRequest.SIGNALS. A worker ends when this
        # process kills it or when this end of its connection closes.
        resource_tracker.ensure_running()  # otherwise it starts with the first child and unblocks the signals
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, StopRequest.SIGNALS)
        try:
            for number in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=run_worker,
                    args=(theirs, buffer, builder, processors),
                    name=f"pointdet loader {number}",
                    daemon=True,
                )
                process.start()
                theirs.close()
                self._workers[ours] = process
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def submit(self, slot: int, epoch: int, indices: list[int]) -> None:
        for number, connection in enumerate(self._workers):
            rows = list(range(number, len(indices), len(self._workers)))
            if rows:
                task = Task(slot, rows, epoch, [indices[row] for row in rows])
                try:
                    connection.send(task)
                    self._tasks.setdefault(connection, []).append(task)
                except ConnectionError:
                    raise self._worker_died(connection) from None
                self._pending[slot] += 1

    def collect(self, slot: int) -> list[BatchReport]:
        while self._pending[slot]:
            ready = wait(list(self._workers), self._patience)
            if not ready:
                raise self._worker_hangs()
            for connection in [c for c in self._workers if c in ready]:
                try:
                    answered, answer = connection.recv()
                except (EOFError, ConnectionError):
                    raise self._worker_died(connection) from None
                self._pending[answered] -= 1
                self._tasks[connection].pop(0)
                if isinstance(answer, Exception):
                    raise answer
                self._reports[answered].append(answer)
        reports, self._reports[slot] = self._reports[slot], []
        return reports

    def close(self) -> None:
        for connection, process in self._workers.items():
            connection.close()
            process.kill()  # a worker has nothing to save or clean up
            process.join()
            process.close()
        self._workers.clear()

    def _worker_hangs(self) -> PointDetError:
        connection = next(c for c, tasks in self._tasks.items() if tasks)
        process, (task, *_) = self._workers[connection], self._tasks[connection]
        images = first_few([self._records.path(index) for index in task.indices], MAX_NAMED)
        return PointDetError(
            f"the loader process {process.name!r} (pid {process.pid}) has not answered for {self._patience:.0f} s; "
            f"check the storage of its images: {images}"
        )

    def _worker_died(self, connection: Connection) -> PointDetError:
        process = self._workers[connection]
        process.join()
        name, code = process.name, process.exitcode or 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        return PointDetError(
            f"the loader process {name!r} {how}, most often because memory ran out; "
            "lower train.workers or train.batch_size"
        )
