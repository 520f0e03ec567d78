# SPDX-License-Identifier: Apache-2.0
"""The event file of a run, for TensorBoard."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar


class EventFile:
    """Writes numbers to a new file events.* at once. tensorboardX's SummaryWriter does it in a thread, which prints
    tracebacks when the disk is full."""

    def __init__(self, folder: Path, step: int) -> None:
        """`step`: TensorBoard hides the numbers of other event files in `folder` from this step on."""
        path = folder / f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter(str(path))
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._write(Event(wall_time=time.time(), step=step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Write numbers of one step. Errors: OSError if the disk is full."""
        for name, value in numbers.items():
            self._write(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
        self._records.flush()

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())

    def close(self) -> None:
        """Close the file. What a full disk does not take is dropped; `write` has raised the error."""
        with suppress(OSError):
            self._records.close()
