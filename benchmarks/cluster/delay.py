# SPDX-License-Identifier: Apache-2.0
"""A link with a delay: two virtual network devices (TAP), and threads that carry frames between them.

The kernel's own delay (tc netem) is a module that many kernels lack.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
import threading
import time
from collections import deque

# <linux/if_tun.h>
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4 = 0x01, 0x02
PR_SET_TIMERSLACK = 29  # <linux/prctl.h>
LARGEST_FRAME = 1 << 17  # bytes; a segmented TCP frame has up to 64 KiB


class DelayedLink:
    """Two TAP devices. After `start`, a frame that is sent on one arrives at the other after `seconds`."""

    def __init__(self, names: tuple[str, str], seconds: float) -> None:
        self._files = [_open(name) for name in names]
        self._stop = threading.Event()
        directions = (self._files, self._files[::-1])
        self._threads = [
            threading.Thread(target=_carry, args=(*ends, seconds, self._stop)) for ends in directions
        ]

    def start(self) -> None:
        """Begin to carry frames. Both devices must be up: writing to a device that is down fails."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop the threads and remove the devices."""
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        for file in self._files:
            os.close(file)


def _open(name: str) -> int:
    """Create the device `name`. It exists as long as the returned file is open."""
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
    fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    # Large TCP frames pass as they are: one system call for up to 64 KiB.
    fcntl.ioctl(file, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)
    return file


def _carry(source: int, target: int, seconds: float, stop: threading.Event) -> None:
    # A rank that waits for a message uses its core fully: this thread must not wait for a time slice.
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)  # else select wakes up to 50 us late
    frames: deque[tuple[float, bytes]] = deque()
    while not stop.is_set():
        wait = max(0.0, frames[0][0] - time.monotonic()) if frames else 0.1
        if select.select([source], [], [], wait)[0]:
            frames.append((time.monotonic() + seconds, os.read(source, LARGEST_FRAME)))
        while frames and frames[0][0] <= time.monotonic():
            os.write(target, frames.popleft()[1])
