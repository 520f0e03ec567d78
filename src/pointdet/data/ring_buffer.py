# SPDX-License-Identifier: Apache-2.0
"""A ring buffer of batches in memory that the loader shares with its worker processes."""

from __future__ import annotations

from typing import final

from pointdet.arrays import Batch
from pointdet.data.shared_arrays import Layout, SharedArrays

WHAT, FIX = "the buffer of the loader's batches", "lower train.batch_size, train.accumulate or the input size"


@final
class RingBuffer:
    """`slots` batches with the same arrays. A child process that unpickles it maps the same memory."""

    def __init__(self, layout: Layout, slots: int, memory: SharedArrays | None = None) -> None:
        """`layout`: of one batch. `memory`: that of an existing buffer. Errors: PointDetError: not enough memory."""
        self.layout, self.slots = dict(layout), slots
        if memory is None:
            every = {f"{slot}/{name}": array for slot in range(slots) for name, array in layout.items()}
            memory = SharedArrays.allocate(every, WHAT, FIX)
        self._memory = memory
        self.batches: list[Batch] = [
            {name: memory.arrays[f"{slot}/{name}"] for name in layout} for slot in range(slots)
        ]

    def close(self) -> None:
        """Release the memory. Arrays that are still in use keep theirs."""
        self.batches.clear()
        self._memory.close()

    def __reduce__(self) -> tuple[type[RingBuffer], tuple[object, ...]]:
        return RingBuffer, (self.layout, self.slots, self._memory)
