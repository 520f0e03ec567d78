# SPDX-License-Identifier: Apache-2.0
"""Named arrays in a block of memory that several processes map."""

from __future__ import annotations

import math
import mmap
import os
import weakref
from collections.abc import Callable, Mapping
from multiprocessing import reduction
from typing import final

import numpy as np
import numpy.typing as npt

from pointdet.arrays import AnyArray
from pointdet.available_memory import require
from pointdet.errors import PointDetError

Layout = Mapping[str, tuple[tuple[int, ...], npt.DTypeLike]]  # name -> shape and dtype

ALIGNMENT = 4096  # bytes: every array starts at a memory page


@final
class SharedArrays:
    """Arrays in anonymous memory (memfd). A child process that unpickles them maps the same memory.

    The size of /dev/shm does not limit the memory, and the system frees it when the last process that maps it ends,
    however it ends.
    """

    def __init__(self, layout: Layout, descriptor: int) -> None:
        """`descriptor`: file descriptor of a block of `allocate`. This object closes it."""
        self.layout = dict(layout)
        self.descriptor = descriptor
        self._close = weakref.finalize(self, os.close, descriptor)
        offsets = _offsets(layout)
        memory = mmap.mmap(descriptor, offsets[-1])
        self.arrays: dict[str, AnyArray] = {
            name: np.ndarray(shape, dtype, memory, offset)
            for (name, (shape, dtype)), offset in zip(self.layout.items(), offsets, strict=False)
        }

    @staticmethod
    def allocate(layout: Layout, what: str, fix: str) -> SharedArrays:
        """New arrays, filled with zeros. Errors: PointDetError if there is not enough memory for `what`; names `fix`."""
        size = _offsets(layout)[-1]
        require(size, what, fix)  # nothing but the machine bounds the size of a memfd
        descriptor = os.memfd_create("pointdet")
        try:
            os.posix_fallocate(descriptor, 0, size)  # fail here, not with a bus error at the first access
        except OSError as error:
            os.close(descriptor)
            raise PointDetError(f"no memory for {what} ({size >> 20} MiB: {error.strerror}); {fix}") from None
        return SharedArrays(layout, descriptor)

    def close(self) -> None:
        """Release the memory. Arrays that are still in use keep theirs."""
        self.arrays.clear()
        self._close()

    def __reduce__(self) -> tuple[Callable[..., SharedArrays], tuple[object, ...]]:
        return _attach, (self.layout, reduction.DupFd(self.descriptor))


def _attach(layout: Layout, descriptor: reduction.DupFd) -> SharedArrays:  # type: ignore[valid-type]
    return SharedArrays(layout, descriptor.detach())  # type: ignore[attr-defined]


def _offsets(layout: Layout) -> list[int]:
    """Where each array starts, in bytes, and the size of the block, at least one page."""
    offsets = [0]
    for shape, dtype in layout.values():
        size = math.prod(shape) * np.dtype(dtype).itemsize
        offsets.append(offsets[-1] + -(-size // ALIGNMENT) * ALIGNMENT)
    return [*offsets[:-1], max(offsets[-1], ALIGNMENT)]
