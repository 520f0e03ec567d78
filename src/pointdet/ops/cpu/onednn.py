# SPDX-License-Identifier: Apache-2.0
"""Convolution primitives with oneDNN 3.x, if its library is installed (the extra `onednn`).

oneDNN chooses the memory layouts. Its reorder primitives convert arrays to these layouts and back, in memory
that all layers of a thread share. Layers of one geometry share their primitives, in all threads and networks.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from ctypes import c_int, c_void_p
from functools import cached_property
from typing import Any
from weakref import WeakValueDictionary

from pointdet.arrays import Float32Array
from pointdet.ops.cpu.memory import workspace
from pointdet.ops.cpu.onednn_library import (
    Execution,
    Handle,
    Kernel,
    Memory,
    any_layout,
    dimensions,
    library,
    library_file,
    plain_layout,
    reorder,
    require,
)
from pointdet.ops.cpu.primitives import ConvolutionShape

__all__ = ["OneDnnConvolution", "library_file", "require", "shared_convolution"]

DIRECT = 1  # the algorithm
FORWARD_TRAINING = 64
# Index of an argument, and the query for its memory layout.
SRC, WEIGHTS, DST = (1, 129), (33, 131), (17, 133)
DIFF_SRC, DIFF_WEIGHTS, DIFF_DST = (129, 130), (161, 132), (145, 134)
FROM, TO = 1, 17  # of a reorder

_shared: WeakValueDictionary[ConvolutionShape, OneDnnConvolution] = WeakValueDictionary()
_sharing = threading.Lock()


def shared_convolution(shape: ConvolutionShape) -> OneDnnConvolution:
    """The primitives of this geometry, which exist as long as a layer uses them."""
    with _sharing:
        return _shared.setdefault(shape, OneDnnConvolution(shape))


class OneDnnConvolution:
    """`ConvolutionPrimitives` with oneDNN. Each primitive is created at its first use."""

    def __init__(self, shape: ConvolutionShape) -> None:
        self._shape = s = shape
        self._shapes = {
            "x": (s.batch, s.channels, s.height, s.width),
            "y": (s.batch, s.out_channels, s.out_height, s.out_width),
            "w": (s.out_channels, s.channels // s.groups, s.kernel, s.kernel),
        }

    def forward(self, x: Float32Array, w: Float32Array, y: Float32Array, accumulate: bool) -> None:
        self._forward(x, w, y, accumulate)

    def backward_data(self, w: Float32Array, dy: Float32Array, dx: Float32Array, accumulate: bool) -> None:
        self._backward_data(w, dy, dx, accumulate)

    def backward_weights(self, x: Float32Array, dy: Float32Array, dw: Float32Array, accumulate: bool) -> None:
        self._backward_weights(x, dy, dw, accumulate)

    @cached_property
    def _forward(self) -> _Primitive:
        return self._primitive(self._describe_forward(), [(SRC, "x"), (WEIGHTS, "w"), (DST, "y")])

    @cached_property
    def _backward_data(self) -> _Primitive:
        layouts = (self._layout("x"), self._layout("w"), self._layout("y"))
        description = self._describe("backward_data", layouts, self._describe_forward())
        return self._primitive(description, [(WEIGHTS, "w"), (DIFF_DST, "y"), (DIFF_SRC, "x")])

    @cached_property
    def _backward_weights(self) -> _Primitive:
        layouts = (self._layout("x"), self._layout("w"), None, self._layout("y"))
        description = self._describe("backward_weights", layouts, self._describe_forward())
        return self._primitive(description, [(SRC, "x"), (DIFF_DST, "y"), (DIFF_WEIGHTS, "w")])

    def _describe_forward(self) -> Handle:
        layouts = (self._layout("x"), self._layout("w"), None, self._layout("y"))
        return self._describe("forward", layouts, None)

    def _describe(self, direction: str, layouts: tuple[Handle | None, ...], forward: Handle | None) -> Handle:
        """The description of a primitive. A backward primitive needs that of the forward one as a hint."""
        s = self._shape
        kind = () if forward else (c_int(FORWARD_TRAINING),)
        # Strides, dilations (0 means none), paddings before and after.
        parameters = [dimensions((n, n)) for n in (s.stride, s.dilation - 1, s.pad, s.pad)]
        return Handle(
            *("primitive_desc", f"dnnl_convolution_{direction}_primitive_desc_create", library().engine),
            *(*kind, c_int(DIRECT), *layouts, *parameters),
            *((forward,) if forward else ()),
            library().attributes,
        )

    def _dims(self, name: str) -> tuple[int, ...]:
        shape, groups = self._shapes[name], self._shape.groups
        return (groups, shape[0] // groups, *shape[1:]) if name == "w" and groups > 1 else shape

    def _layout(self, name: str) -> Handle:
        """Chosen by the library. A 1x1 convolution takes C-contiguous arrays, so that it needs no reorder."""
        return (plain_layout if self._shape.kernel == 1 else any_layout)(self._dims(name))

    def _primitive(self, description: Handle, arguments: Sequence[tuple[tuple[int, int], str]]) -> _Primitive:
        operands = [
            _Operand(description, argument, query, self._dims(name), slot, written=slot == 2)
            for slot, ((argument, query), name) in enumerate(arguments)
        ]
        return _Primitive(description, operands)


class _Primitive:
    """A oneDNN primitive with two inputs and one output, all C-contiguous NumPy arrays."""

    def __init__(self, description: Handle, operands: list[_Operand]) -> None:
        self._kernel, self._operands = Kernel(description), operands
        self._thread = threading.local()

    def __call__(
        self, first: Float32Array, second: Float32Array, result: Float32Array, accumulate: bool
    ) -> None:
        if (substitute := library().substitute) is not None:
            substitute.submit(self._execute, first, second, result, accumulate).result()
        else:
            self._execute(first, second, result, accumulate)

    def _execute(
        self, first: Float32Array, second: Float32Array, result: Float32Array, accumulate: bool
    ) -> None:
        call: _Call | None = getattr(self._thread, "call", None)
        if call is None:
            call = self._thread.call = _Call(self._kernel, self._operands)
        if accumulate:
            target = workspace("sum", *result.shape)
            call(first, second, target)
            result += target
        else:
            call(first, second, result)


class _Call:
    """What one thread needs to execute a primitive. It does not refer to the `_Primitive` that holds it."""

    def __init__(self, kernel: Kernel, operands: Sequence[_Operand]) -> None:
        self._buffers = [_Buffer(operand) for operand in operands]
        arguments = [(o.argument, b.memory) for o, b in zip(operands, self._buffers, strict=True)]
        self._execution = Execution(kernel, arguments)

    def __call__(self, *arrays: Float32Array) -> None:
        """The last array is the output."""
        for buffer, array in zip(self._buffers, arrays, strict=True):
            buffer.bind(array)
        *inputs, output = self._buffers
        for buffer in inputs:
            buffer.convert()
        self._execution()
        output.convert()
        self._execution.wait()


class _Operand:
    """An argument of a primitive, which reads or writes it in a layout of its own or as a plain array."""

    def __init__(
        self, description: Handle, argument: int, query: int, dims: tuple[int, ...], slot: int, written: bool
    ) -> None:
        self.argument, self.written = argument, written
        self.plain = plain_layout(dims)
        self._description = description  # the layout belongs to it
        self.layout: c_void_p = library().layout(description, query)
        self.direct = library().equal(self.plain, self.layout)
        self.space, self.size = f"operand {slot}", library().size(self.layout)

    @cached_property
    def reorder(self) -> Kernel:
        """From the plain layout to that of the primitive, or back for an output."""
        ends: tuple[Any, Any] = (self.plain, self.layout)
        return reorder(*reversed(ends)) if self.written else reorder(*ends)


class _Buffer:
    """An operand of one thread: the array, or a copy of it in the primitive's layout."""

    def __init__(self, operand: _Operand) -> None:
        self._operand = operand
        self._plain = Memory(operand.plain)
        self._reorder: Execution | None = None
        self.memory = self._plain
        if not operand.direct:
            self.memory = Memory(operand.layout)
            ends = [self._plain, self.memory]
            source, target = reversed(ends) if operand.written else ends
            self._reorder = Execution(operand.reorder, [(FROM, source), (TO, target)])

    def bind(self, array: Float32Array) -> None:
        """Use this array and, if there is a copy, the memory for it that all layers share."""
        self._plain.bind(array)
        if self._reorder is not None:
            self.memory.bind(workspace(self._operand.space, self._operand.size // 4 + 1))

    def convert(self) -> None:
        """Convert an input to the primitive's layout, or the output to the plain layout."""
        if self._reorder is not None:
            self._reorder()
