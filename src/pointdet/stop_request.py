# SPDX-License-Identifier: Apache-2.0
"""A request to stop, sent by a signal: the program finishes its current step and its files, then ends."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import final


@final
class StopRequest:
    """Context manager ``with StopRequest() as stop:``. In the block `stop.requested` is True after a signal.

    The signals are SIGINT (Ctrl-C), SIGTERM (sent by schedulers before a time limit) and SIGUSR1. mpirun
    forwards SIGUSR1 to the ranks, but kills them soon after a SIGTERM. After the first signal, Ctrl-C raises
    KeyboardInterrupt again, so that it ends the program at once. The block restores the previous handlers at
    its end.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> StopRequest:
        self._handlers = {number: signal.signal(number, self._request) for number in self.SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
