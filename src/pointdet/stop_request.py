# SPDX-License-Identifier: Apache-2.0
"""A request to stop, sent by a signal: the program finishes its current step and its files, then ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import final


class Stopped(Exception):
    """A long operation ended before its result, because of a stop request."""


@final
class StopRequest:
    """Context manager ``with StopRequest() as stop:``. In the block `stop.requested` is True after a signal.

    The signals are SIGINT (Ctrl-C), SIGTERM (sent by schedulers before a time limit), SIGHUP (the terminal or the
    ssh session is gone; not under nohup, which ignores it) and SIGUSR1. mpirun forwards SIGUSR1 to the ranks, but
    kills them soon after the others. The block restores the previous handlers at its end.

    Ctrl-C after the first signal ends the process at once, with status 130 and without cleaning up. A
    KeyboardInterrupt could not do that: NNabla turns it into a SystemError, and while NNabla or MPI runs, Python
    raises none. So a thread reads the signals from a pipe.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> StopRequest:
        self._terminals = [number for number in (1, 2) if os.isatty(number)]
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._previous_writer = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=_end_at_ctrl_c, args=(reader,), daemon=True)
        self._thread.start()
        self._handlers = {
            number: signal.signal(number, self._request)
            for number in self.SIGNALS
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_writer)
        os.close(self._writer)
        self._thread.join()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if number == signal.SIGHUP:  # every further line to a terminal that is gone would be an error
            null = os.open(os.devnull, os.O_WRONLY)
            for terminal in self._terminals:
                os.dup2(null, terminal)
            os.close(null)


def _end_at_ctrl_c(reader: int) -> None:
    """Read numbers of signals until the pipe is closed. SIGINT after one of SIGNALS ends the process."""
    requested = False
    while received := os.read(reader, 1):
        if requested and received[0] == signal.SIGINT:
            print("interrupted", file=sys.stderr, flush=True)
            os._exit(130)
        requested |= received[0] in StopRequest.SIGNALS
    os.close(reader)
