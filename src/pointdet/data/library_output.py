# SPDX-License-Identifier: Apache-2.0
"""Keeps the messages of C libraries about damaged images and videos off the terminal: errors are reported in one
sentence instead."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2

if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.setLogLevel(
        0
    )  # OpenCV's own messages; its copies of libjpeg and libpng print theirs with C's `stderr`


class _Stderr:
    """The variable `stderr` of the C library. glibc allows to assign another stream to it.

    Python, C++ and MPI write to the file descriptor or to their own stream, so their messages are still printed.
    """

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        library.fopen.restype = ctypes.c_void_p
        library.fopen.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
        self._variable = ctypes.c_void_p.in_dll(library, "stderr")
        self._original = self._variable.value
        self._nowhere = library.fopen(os.devnull.encode(), b"w")
        self._users = 0
        self._lock = threading.Lock()

    def silence(self) -> None:
        with self._lock:
            self._users += 1
            self._variable.value = self._nowhere

    def restore(self) -> None:
        """The last of all threads that called `silence` gets the messages back."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._variable.value = self._original


_stderr = _Stderr()


@contextmanager
def without_library_output() -> Iterator[None]:
    """What C libraries print to `stderr` within the block, in any thread, is dropped."""
    _stderr.silence()
    try:
        yield
    finally:
        _stderr.restore()
