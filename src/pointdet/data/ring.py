# SPDX-License-Identifier: Apache-2.0
"""A ring of batches in memory that the loader shares with its worker processes."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Callable, Mapping
from multiprocessing import reduction

import numpy as np
import numpy.typing as npt

from pointdet.errors import PointDetError
from pointdet.structures import Array

Layout = Mapping[str, tuple[tuple[int, ...], npt.DTypeLike]]

ALIGNMENT = 4096  # every array begins on a page


class Ring:
    """`slots` batches of the same arrays. Pickled to a child process, it is the same memory there.

    The memory has no name (memfd): it is bound neither by the size of /dev/shm nor ever left behind, because the
    system takes it back when the last process that maps it ends.
    """

    def __init__(self, layout: Layout, slots: int, descriptor: int | None = None) -> None:
        """`descriptor`: memory of an existing ring. Errors: PointDetError when there is not enough memory."""
        self.layout = dict(layout)
        self.slots = slots
        sizes = [math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in self.layout.values()]
        steps = [-(-size // ALIGNMENT) * ALIGNMENT for size in sizes]
        total = slots * sum(steps)
        self._descriptor = _allocate(total) if descriptor is None else descriptor
        memory = mmap.mmap(self._descriptor, total)
        self.batches: list[dict[str, Array]] = []
        offset = 0
        for _ in range(slots):
            batch: dict[str, Array] = {}
            for (name, (shape, dtype)), step in zip(self.layout.items(), steps, strict=True):
                batch[name] = np.frombuffer(memory, dtype, math.prod(shape), offset).reshape(shape)
                offset += step
            self.batches.append(batch)

    def close(self) -> None:
        """Let go of the memory; arrays in use keep theirs."""
        if self.batches:
            os.close(self._descriptor)
            self.batches.clear()

    def __reduce__(self) -> tuple[Callable[..., Ring], tuple[object, ...]]:
        return _attach, (self.layout, self.slots, reduction.DupFd(self._descriptor))


def _attach(layout: Layout, slots: int, descriptor: reduction.DupFd) -> Ring:  # type: ignore[valid-type]
    return Ring(layout, slots, descriptor.detach())  # type: ignore[attr-defined]


def _allocate(size: int) -> int:
    descriptor = os.memfd_create("pointdet-batches")
    try:
        os.posix_fallocate(descriptor, 0, size)  # now, rather than a bus error in the middle of an epoch
    except OSError as error:
        os.close(descriptor)
        raise PointDetError(
            f"no memory for the loader's batches ({size >> 20} MiB: {error.strerror}); lower train.batch_size"
        ) from None
    return descriptor
