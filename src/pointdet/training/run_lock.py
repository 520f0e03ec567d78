# SPDX-License-Identifier: Apache-2.0
"""The lock of a run folder: one process at a time trains in it."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import time
from pathlib import Path
from typing import final

from pointdet.errors import PointDetError

logger = logging.getLogger("pointdet")


@final
class RunLock:
    """A lock on the file `lock` in the run folder. The system releases it when the process ends, however it ends.

    It is an advisory lock (flock). On NFS the Linux kernel passes it on to the server, so it also holds between
    hosts; a file system without locks gives a warning.
    """

    def __init__(self, folder: Path) -> None:
        """Lock an existing folder. Errors: PointDetError if another process has the lock."""
        path = folder / "lock"
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise PointDetError(f"cannot write to {folder} ({error.strerror}); choose another -o") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(self._file, 200).decode(errors="replace").strip() or "another process"
            os.close(self._file)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise PointDetError(
                    f"{folder} is in use by {owner}; wait for that run, or choose another -o"
                ) from None
            self._file = -1
            logger.warning(
                "%s cannot be locked (%s): do not start a second run in it", folder, error.strerror
            )
            return
        owner = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{owner}\n".encode(), 0)

    def release(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
