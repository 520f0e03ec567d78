# SPDX-License-Identifier: Apache-2.0
"""A primitive of oneDNN that reads and writes NumPy arrays, in all threads.

A primitive may use a memory layout of its own for an array. Then a reorder primitive of the library converts the
array to this layout or back, in memory that all layers of a thread share.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from ctypes import c_void_p
from functools import cached_property
from typing import Any

from pointdet.arrays import Float32Array
from pointdet.ops.cpu.memory import workspace
from pointdet.ops.cpu.onednn_library import Execution, Handle, Kernel, Memory, library, reorder

FROM, TO = 1, 17  # arguments of a reorder


class Operand:
    """An argument of a primitive."""

    def __init__(
        self,
        argument: int,
        plain: Handle | c_void_p,
        description: Handle | None = None,
        query: int = 0,
        written: bool = False,
    ) -> None:
        """
        Args:
            argument: its index.
            plain: the layout of the array.
            description, query: of the primitive and its layout for this argument, if it may be another one.
            written: it is an output.
        """
        self.argument, self.plain, self.written = argument, plain, written
        self._description = description  # the layout belongs to it
        chosen = library().layout(description, query) if description is not None else plain
        self.layout = None if library().equal(plain, chosen) else chosen

    @cached_property
    def reorder(self) -> Kernel:
        """From the layout of the array to that of the primitive, or back for an output."""
        ends: tuple[Any, Any] = (self.plain, self.layout)
        return reorder(*reversed(ends)) if self.written else reorder(*ends)


class Primitive:
    """A compiled primitive, called with one C-contiguous array for each operand, in their order."""

    def __init__(self, description: Handle, operands: Sequence[Operand]) -> None:
        self._kernel, self._operands = Kernel(description), operands
        self._thread = threading.local()

    def __call__(self, *arrays: Float32Array) -> None:
        if (substitute := library().substitute) is not None:
            substitute.submit(self._execute, arrays).result()
        else:
            self._execute(arrays)

    def _execute(self, arrays: Sequence[Float32Array]) -> None:
        call: _Call | None = getattr(self._thread, "call", None)
        if call is None:
            call = self._thread.call = _Call(self._kernel, self._operands)
        call(arrays)


class _Call:
    """What one thread needs to execute a primitive. It does not refer to the `Primitive` that holds it."""

    def __init__(self, kernel: Kernel, operands: Sequence[Operand]) -> None:
        self._buffers = [_Buffer(operand, slot) for slot, operand in enumerate(operands)]
        arguments = [(o.argument, b.memory) for o, b in zip(operands, self._buffers, strict=True)]
        self._execution = Execution(kernel, arguments)
        self._read = [b.reorder for b, o in zip(self._buffers, operands, strict=True) if not o.written]
        self._written = [b.reorder for b, o in zip(self._buffers, operands, strict=True) if o.written]

    def __call__(self, arrays: Sequence[Float32Array]) -> None:
        for buffer, array in zip(self._buffers, arrays, strict=True):
            buffer.bind(array)
        for convert in self._read:
            if convert is not None:
                convert()
        self._execution()
        for convert in self._written:
            if convert is not None:
                convert()
        self._execution.wait()


class _Buffer:
    """An operand of one thread: the array, or a copy of it in the primitive's layout."""

    def __init__(self, operand: Operand, slot: int) -> None:
        self._plain = Memory(operand.plain)
        self.reorder: Execution | None = None
        self.memory = self._plain
        if operand.layout is not None:
            self.memory = Memory(operand.layout)
            ends = [self._plain, self.memory]
            source, target = reversed(ends) if operand.written else ends
            self.reorder = Execution(operand.reorder, [(FROM, source), (TO, target)])
            self._space, self._size = f"operand {slot}", library().size(operand.layout) // 4 + 1

    def bind(self, array: Float32Array) -> None:
        """Use this array and, if there is a copy, the memory for it that all layers share."""
        self._plain.bind(array)
        if self.reorder is not None:
            self.memory.bind(workspace(self._space, self._size))
