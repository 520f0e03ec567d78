# SPDX-License-Identifier: Apache-2.0
"""Work of rank 0 for which the other ranks wait, however long it takes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from pointdet.ranks.base import Ranks

T = TypeVar("T")

SECONDS_BETWEEN_SIGNS = 0.2


def from_rank_0(ranks: Ranks, work: Callable[[], T]) -> T:
    """What `work` returns on rank 0, on every rank. Every rank must call it.

    `work` runs in a thread. Meanwhile rank 0 exchanges a sign of life with the other ranks, so that
    runtime.communication_timeout limits the time without a sign and not the work. What `work` raises is raised on
    rank 0 only; the other ranks wait until its end ends them.
    """
    if ranks.size == 1:
        return work()
    if ranks.rank:
        while (sent := ranks.broadcast(None)) is None:
            pass
        result: T = sent[0]
        return result
    running = _Work(work)
    running.start()
    while not running.ended.wait(SECONDS_BETWEEN_SIGNS):
        ranks.broadcast(None)
    result = running.result()
    ranks.broadcast((result,))
    return result


class _Work(threading.Thread, Generic[T]):
    """A daemon, so that an interrupted program does not wait for it."""

    def __init__(self, work: Callable[[], T]) -> None:
        super().__init__(name="pointdet work of rank 0", daemon=True)
        self._work = work
        self._results: list[T] = []
        self._error: BaseException | None = None
        self.ended = threading.Event()

    def run(self) -> None:
        try:
            self._results.append(self._work())
        except BaseException as error:  # noqa: BLE001  `result` raises it in the thread that waits
            self._error = error
        finally:
            self.ended.set()

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._results[0]
