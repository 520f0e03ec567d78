# SPDX-License-Identifier: Apache-2.0
"""The time limit of communication: a process that waits too long for the other ranks saves its work and ends."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NoReturn

from pointdet.errors import PointDetError, last_line

STATUS = 2  # exit status, that of a PointDetError
LONGEST_TICK = 1.0  # seconds between two looks at the clock
LAST_RANK_DELAY = 10  # seconds
SECONDS_TO_SAVE = 60
SECONDS_TO_PRINT = 20

logger = logging.getLogger("pointdet")


class Watchdog:
    """Ends the process with one sentence if a collective operation takes longer than a limit.

    Only the time in a block ``with watchdog:`` counts, and the time in which sums on the GPU are unfinished. MPI
    blocks in C, where Python cannot interrupt it, so a thread looks at the clock. `saving` names what rank 0 does
    before its end. As long as it is at work, no block of this process ends: nothing that it reads changes.
    """

    def __init__(self, rank: int, limit: float) -> None:
        """`limit`: seconds; 0: no limit."""
        self._rank, self._limit = rank, limit
        self._since: float | None = None  # of the collective operation in which the process is
        self._sums_since: Callable[[], float | None] = lambda: None
        self._save: Callable[[], str] | None = None
        self._ending = threading.Lock()
        if limit > 0:
            threading.Thread(target=self._watch, name="pointdet watchdog", daemon=True).start()

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._ending:
            self._since = None

    def watch_gpu(self, since: Callable[[], float | None]) -> None:
        """`since`: the time (`time.monotonic`) since which sums on the GPU are unfinished, or None.

        It is called from another thread. It raises PointDetError if a sum has failed.
        """
        self._sums_since = since

    @contextmanager
    def saving(self, save: Callable[[], str]) -> Iterator[None]:
        """Within the block, rank 0 calls `save` before it ends, and the other ranks give it SECONDS_TO_SAVE.

        `save` is called from another thread. It returns what it did, as a part of a sentence; or it raises
        PointDetError. It is not called while sums on the GPU are unfinished, because then the arrays of the GPU
        cannot be read.
        """
        self._save = save
        try:
            yield
        finally:
            self._save = None

    def _watch(self) -> None:
        while True:
            time.sleep(min(LONGEST_TICK, self._limit / 4))
            try:
                since = self._waiting_since()
                if since is not None and time.monotonic() - since > self._limit:
                    # The lowest rank that waits prints the sentence, and its end ends the others.
                    time.sleep(self._time_of_lower_ranks() + min(self._rank, LAST_RANK_DELAY))
                    with self._ending:
                        if self._waiting_since() == since:
                            self._end(
                                f"rank {self._rank} has waited {self._limit:g} s for the other ranks: a process "
                                "hangs, or a host or the network is lost"
                            )
            except PointDetError as error:
                time.sleep(self._time_of_lower_ranks())
                self._end(str(error))

    def _waiting_since(self) -> float | None:
        sums, exchange = self._sums_since(), self._since
        return sums if exchange is None else exchange

    def _gpu_waits(self) -> bool:
        try:
            return self._sums_since() is not None
        except PointDetError:  # a sum has failed
            return True

    def _time_of_lower_ranks(self) -> float:
        return SECONDS_TO_SAVE if self._rank and self._save is not None else 0

    def _end(self, reason: str) -> NoReturn:
        # The system ends the process if even the log cannot be written.
        signal.alarm(SECONDS_TO_SAVE + SECONDS_TO_PRINT)
        saved = self._saved()
        logger.error(
            "error: %s; %sstart again (training: with --resume), or raise runtime.communication_timeout if a rank "
            "is only slow",
            reason,
            f"{saved}; " if saved else "",
        )
        sys.stderr.flush()
        time.sleep(0.3)  # mpirun prints a message of its own after the end; it must pass our line on first
        os._exit(STATUS)

    def _saved(self) -> str:
        """Call `save`, for SECONDS_TO_SAVE at most, and return what happened."""
        save = self._save
        if save is None or self._rank:
            return ""
        if self._gpu_waits():
            return "no checkpoint is written, because the GPU waits too"
        outcome = [f"no checkpoint is written, because it took more than {SECONDS_TO_SAVE:g} s"]

        def save_and_tell() -> None:
            try:
                outcome[0] = save()
            except Exception as error:  # noqa: BLE001  the process ends with the sentence in any case
                outcome[0] = f"no checkpoint is written ({last_line(error)})"

        thread = threading.Thread(target=save_and_tell, name="pointdet checkpoint", daemon=True)
        thread.start()
        thread.join(SECONDS_TO_SAVE)
        return outcome[0]
