# SPDX-License-Identifier: Apache-2.0
"""A ring buffer of batches in memory that the loader shares with its worker processes."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Callable, Mapping
from multiprocessing import reduction

import numpy as np
import numpy.typing as npt

from pointdet.arrays import Batch
from pointdet.available_memory import require
from pointdet.errors import PointDetError

Layout = Mapping[str, tuple[tuple[int, ...], npt.DTypeLike]]  # name -> shape and dtype of one batch's array

ALIGNMENT = 4096  # bytes: every array starts at a memory page


class RingBuffer:
    """`slots` batches with the same arrays. A child process that unpickles it maps the same memory.

    The memory is anonymous (memfd). The size of /dev/shm does not limit it, and the system frees it when the
    last process that maps it ends.
    """

    def __init__(self, layout: Layout, slots: int, descriptor: int | None = None) -> None:
        """`descriptor`: file descriptor of an existing buffer. Errors: PointDetError: not enough memory."""
        self.layout = dict(layout)
        self.slots = slots
        sizes = [math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in self.layout.values()]
        steps = [-(-size // ALIGNMENT) * ALIGNMENT for size in sizes]
        total = slots * sum(steps)
        self._descriptor = _allocate(total) if descriptor is None else descriptor
        memory = mmap.mmap(self._descriptor, total)
        self.batches: list[Batch] = []
        offset = 0
        for _ in range(slots):
            batch: Batch = {}
            for (name, (shape, dtype)), step in zip(self.layout.items(), steps, strict=True):
                batch[name] = np.frombuffer(memory, dtype, math.prod(shape), offset).reshape(shape)
                offset += step
            self.batches.append(batch)

    def close(self) -> None:
        """Release the memory. Arrays that are still in use keep theirs."""
        if self.batches:
            os.close(self._descriptor)
            self.batches.clear()

    def __reduce__(self) -> tuple[Callable[..., RingBuffer], tuple[object, ...]]:
        return _attach, (self.layout, self.slots, reduction.DupFd(self._descriptor))


def _attach(layout: Layout, slots: int, descriptor: reduction.DupFd) -> RingBuffer:  # type: ignore[valid-type]
    return RingBuffer(layout, slots, descriptor.detach())  # type: ignore[attr-defined]


def _allocate(size: int) -> int:
    """A file in memory. Nothing but the machine bounds its size, so compare with the available memory first."""
    require(
        size,
        "the buffer of the loader's batches",
        "lower train.batch_size, train.accumulate or the input size",
    )
    descriptor = os.memfd_create("pointdet-batches")
    try:
        os.posix_fallocate(descriptor, 0, size)  # fail here, not with a bus error in the middle of an epoch
    except OSError as error:
        os.close(descriptor)
        raise PointDetError(
            f"no memory for the loader's batches ({size >> 20} MiB: {error.strerror}); lower train.batch_size"
        ) from None
    return descriptor
