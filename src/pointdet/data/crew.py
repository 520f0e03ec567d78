# SPDX-License-Identifier: Apache-2.0
"""Who fills the batches of the ring: the calling process itself, or processes that work ahead of it."""

from __future__ import annotations

import multiprocessing
import signal
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Protocol

from pointdet.data.ring import Ring
from pointdet.data.worker import Maker, Notes, Task, work
from pointdet.errors import PointDetError


class Crew(Protocol):
    def submit(self, slot: int, epoch: int, indices: list[int]) -> None:
        """Order the batch of a slot."""

    def collect(self, slot: int) -> list[Notes]:
        """Wait until the batch of a slot is complete. Errors: those of the samples; PointDetError if a worker died."""

    def close(self) -> None: ...


class Alone:
    """The samples are made here, when they are asked for."""

    def __init__(self, ring: Ring, maker: Maker) -> None:
        self._ring, self._maker = ring, maker
        self._orders: dict[int, tuple[int, list[int]]] = {}

    def submit(self, slot: int, epoch: int, indices: list[int]) -> None:
        self._orders[slot] = (epoch, indices)

    def collect(self, slot: int) -> list[Notes]:
        if slot not in self._orders:
            return []
        epoch, indices = self._orders.pop(slot)
        return [self._maker.fill(self._ring.batches[slot], range(len(indices)), epoch, indices)]

    def close(self) -> None:
        self._orders.clear()


class Processes:
    """`count` spawned processes share every batch."""

    def __init__(self, ring: Ring, maker: Maker, count: int) -> None:
        self._owed = [0] * ring.slots  # answers still to come for each slot
        self._notes: list[list[Notes]] = [[] for _ in range(ring.slots)]
        self._workers: dict[Connection, SpawnProcess] = {}
        context = multiprocessing.get_context("spawn")
        # Children inherit the mask: Ctrl-C, a scheduler's SIGTERM and mpirun's SIGUSR1 are for us to answer. A worker ends by our
        # word, or when our end of its connection closes, however we die.
        resource_tracker.ensure_running()  # it would start with the first child, and lift the mask again
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})
        try:
            for number in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=work, args=(theirs, ring, maker), name=f"pointdet loader {number}", daemon=True
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
                try:
                    connection.send(Task(slot, rows, epoch, [indices[row] for row in rows]))
                except ConnectionError:
                    raise self._death(connection) from None
                self._owed[slot] += 1

    def collect(self, slot: int) -> list[Notes]:
        while self._owed[slot]:
            ready = wait(list(self._workers))
            for connection in [c for c in self._workers if c in ready]:
                try:
                    answered, answer = connection.recv()
                except (EOFError, ConnectionError):
                    raise self._death(connection) from None
                self._owed[answered] -= 1
                if isinstance(answer, Exception):
                    raise answer
                self._notes[answered].append(answer)
        notes, self._notes[slot] = self._notes[slot], []
        return notes

    def close(self) -> None:
        for connection, process in self._workers.items():
            connection.close()
            process.kill()  # it holds nothing that needs an orderly end
            process.join()
            process.close()
        self._workers.clear()

    def _death(self, connection: Connection) -> PointDetError:
        process = self._workers[connection]
        process.join()
        code = process.exitcode or 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        return PointDetError(
            f"a loader process {how}, most often for want of memory; lower train.workers or train.batch_size"
        )
