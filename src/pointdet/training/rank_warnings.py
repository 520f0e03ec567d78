# SPDX-License-Identifier: Apache-2.0
"""The warnings of ranks above 0, which rank 0 writes to the log of the run."""

from __future__ import annotations

import atexit
import logging
import sys

from pointdet.ranks.base import Ranks

logger = logging.getLogger("pointdet")


class RankWarnings(logging.Handler):
    """Keeps the warnings of this rank until they are sent. What is left at the end goes to standard error.

    Errors are printed at once, because the process will end.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._messages: list[str] = []
        atexit.register(self._print)

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            print(self.format(record), file=sys.stderr, flush=True)
        else:
            self._messages.append(self.format(record))

    def take(self) -> list[str]:
        """The warnings since the last call."""
        taken, self._messages = self._messages, []
        return taken

    def _print(self) -> None:
        for message in self.take():
            print(message, file=sys.stderr)


def keep_warnings(ranks: Ranks) -> None:
    """Keep the warnings of a rank above 0 for `send_warnings`, in the place of its other log handlers."""
    if ranks.rank > 0:
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
        logger.addHandler(RankWarnings())


def send_warnings(ranks: Ranks) -> None:
    """Log the warnings of all ranks on rank 0. Every rank must call it."""
    kept = [
        message
        for handler in logger.handlers
        if isinstance(handler, RankWarnings)
        for message in handler.take()
    ]
    for rank, messages in enumerate(ranks.gather(kept) or []):
        for message in messages:
            logger.warning("rank %d: %s", rank, message)
