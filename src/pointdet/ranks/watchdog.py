# SPDX-License-Identifier: Apache-2.0
"""The time limit of communication: a process that waits too long for the other ranks ends."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn

from pointdet.errors import PointDetError

STATUS = 2  # exit status, that of a PointDetError
LONGEST_TICK = 1.0  # seconds between two looks at the clock
LAST_RANK_DELAY = 10  # seconds
SECONDS_TO_PRINT = 20

logger = logging.getLogger("pointdet")


class Watchdog:
    """Ends the process with one sentence if a collective operation takes longer than a limit.

    Only the time in a block ``with watchdog:`` counts, and the time in which sums on the GPU are unfinished. MPI
    blocks in C, where Python cannot interrupt it, so a thread looks at the clock. It writes no checkpoint: the
    running statistics of the other ranks are out of reach, and often the file system is too. All files stay as the
    last whole checkpoint left them.
    """

    def __init__(self, rank: int, limit: float) -> None:
        """`limit`: seconds; 0: no limit."""
        self._rank, self._limit = rank, limit
        self._since: float | None = None  # of the collective operation in which the process is
        self._sums_since: Callable[[], float | None] = lambda: None
        if limit > 0:
            threading.Thread(target=self._watch, name="pointdet watchdog", daemon=True).start()

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._since = None

    def watch_gpu(self, since: Callable[[], float | None]) -> None:
        """`since`: the time (`time.monotonic`) since which sums on the GPU are unfinished, or None.

        It is called from another thread. It raises PointDetError if a sum has failed.
        """
        self._sums_since = since

    def _watch(self) -> None:
        while True:
            time.sleep(min(LONGEST_TICK, self._limit / 4))
            try:
                since = self._waiting_since()
                if since is not None and time.monotonic() - since > self._limit:
                    # The lowest rank that waits prints the sentence, and its end ends the others.
                    time.sleep(min(self._rank, LAST_RANK_DELAY))
                    if self._waiting_since() == since:
                        self._end(
                            f"rank {self._rank} has waited {self._limit:g} s for the other ranks: a process "
                            "hangs, or a host or the network is lost"
                        )
            except PointDetError as error:
                self._end(str(error))

    def _waiting_since(self) -> float | None:
        sums, exchange = self._sums_since(), self._since
        return sums if exchange is None else exchange

    def _end(self, reason: str) -> NoReturn:
        signal.alarm(SECONDS_TO_PRINT)  # the system ends the process if even the log cannot be written
        logger.error(
            "error: %s; start again (training: with --resume), or raise runtime.communication_timeout if a rank "
            "is only slow",
            reason,
        )
        sys.stderr.flush()
        time.sleep(0.3)  # mpirun prints a message of its own after the end; it must pass our line on first
        os._exit(STATUS)
