# SPDX-License-Identifier: Apache-2.0
"""Convolution primitives with oneDNN 3.x, if its library is installed (the extra `onednn`).

oneDNN chooses the memory layouts. Its reorder primitives convert arrays to these layouts and back, in memory
that all layers share. Names and numbers are those of the C interface, dnnl.h and dnnl_types.h.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from ctypes import Structure, byref, c_int, c_int64, c_size_t, c_void_p
from functools import cached_property, lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import numpy as np

from pointdet.arrays import Float32Array
from pointdet.errors import PointDetError
from pointdet.ops.cpu.memory import workspace
from pointdet.ops.cpu.primitives import ConvolutionShape

PACKAGE = "onednn-cpu-gomp"
FILE = "libdnnl.so.3"

CPU, IN_ORDER, FLOAT, ANY = 1, 1, 3, 1
DIRECT = 1  # the algorithm
FORWARD_TRAINING = 64
# Index of an argument, and the query for its memory layout.
SRC, WEIGHTS, DST = (1, 129), (33, 131), (17, 133)
DIFF_SRC, DIFF_WEIGHTS, DIFF_DST = (129, 130), (161, 132), (145, 134)
FROM, TO = 1, 17  # of a reorder


class _Argument(Structure):
    _fields_ = (("arg", c_int), ("memory", c_void_p))


def library_file() -> str | None:
    """Path of the installed library, or None."""
    try:
        files = distribution(PACKAGE).files or []
    except PackageNotFoundError:
        return None
    found = [str(f.locate()) for f in files if f.name == FILE]
    return os.path.realpath(found[0]) if found else None


class _Library:
    """The loaded library with the engine and the stream of this process."""

    def __init__(self, file: str) -> None:
        self._functions = ctypes.CDLL(file)
        self.engine, self.stream = c_void_p(), c_void_p()
        self("dnnl_engine_create", byref(self.engine), c_int(CPU), c_size_t(0))
        self("dnnl_stream_create", byref(self.stream), self.engine, c_int(IN_ORDER))

    def __call__(self, function: str, *arguments: Any) -> None:
        status = getattr(self._functions, function)(*arguments)
        if status:
            raise RuntimeError(f"oneDNN: {function} gave status {status}")

    def layout(self, description: c_void_p, query: int) -> c_void_p:
        """The memory layout that a primitive uses for an argument."""
        function = self._functions.dnnl_primitive_desc_query_md
        function.restype = c_void_p
        return c_void_p(function(description, c_int(query), c_int(0)))

    def size(self, layout: c_void_p) -> int:
        function = self._functions.dnnl_memory_desc_get_size
        function.restype = c_size_t
        return int(function(layout))

    def equal(self, one: c_void_p, other: c_void_p) -> bool:
        return bool(self._functions.dnnl_memory_desc_equal(one, other))


def require() -> str:
    """Path of the installed library. Errors: PointDetError if it is not installed."""
    file = library_file()
    if file is None:
        raise PointDetError(
            f"runtime.cpu_kernels is onednn, but {PACKAGE} is not installed; "
            f"pip install {PACKAGE}, or choose blas"
        )
    return file


@lru_cache(maxsize=1)
def _library() -> _Library:
    return _Library(require())


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
        description = c_void_p()
        _library()(
            "dnnl_convolution_backward_data_primitive_desc_create",
            *(byref(description), _library().engine, c_int(DIRECT)),
            *(self._layout("x"), self._layout("w"), self._layout("y")),
            *(*self._parameters(), self._describe_forward(), None),
        )
        return self._primitive(description, [(WEIGHTS, "w"), (DIFF_DST, "y"), (DIFF_SRC, "x")])

    @cached_property
    def _backward_weights(self) -> _Primitive:
        description = c_void_p()
        _library()(
            "dnnl_convolution_backward_weights_primitive_desc_create",
            *(byref(description), _library().engine, c_int(DIRECT)),
            *(self._layout("x"), self._layout("w"), None, self._layout("y")),
            *(*self._parameters(), self._describe_forward(), None),
        )
        return self._primitive(description, [(SRC, "x"), (DIFF_DST, "y"), (DIFF_WEIGHTS, "w")])

    def _describe_forward(self) -> c_void_p:
        description = c_void_p()
        _library()(
            "dnnl_convolution_forward_primitive_desc_create",
            *(byref(description), _library().engine, c_int(FORWARD_TRAINING), c_int(DIRECT)),
            *(self._layout("x"), self._layout("w"), None, self._layout("y")),
            *(*self._parameters(), None),
        )
        return description

    def _parameters(self) -> tuple[Any, ...]:
        """Strides, dilations (0 means none), paddings before and after."""
        s = self._shape
        return tuple(_dimensions((n, n)) for n in (s.stride, s.dilation - 1, s.pad, s.pad))

    def _dims(self, name: str) -> tuple[int, ...]:
        shape, groups = self._shapes[name], self._shape.groups
        return (groups, shape[0] // groups, *shape[1:]) if name == "w" and groups > 1 else shape

    def _layout(self, name: str) -> c_void_p:
        """Chosen by the library. A 1x1 convolution takes C-contiguous arrays, so that it needs no reorder."""
        if self._shape.kernel == 1:
            return _plain(self._dims(name))
        dims, layout = self._dims(name), c_void_p()
        _library()(
            "dnnl_memory_desc_create_with_tag",
            *(byref(layout), c_int(len(dims)), _dimensions(dims), c_int(FLOAT), c_int(ANY)),
        )
        return layout

    def _primitive(
        self, description: c_void_p, arguments: Sequence[tuple[tuple[int, int], str]]
    ) -> _Primitive:
        operands = [
            _Operand(description, argument, query, self._dims(name), slot)
            for slot, ((argument, query), name) in enumerate(arguments)
        ]
        return _Primitive(description, operands)


class _Primitive:
    """A oneDNN primitive with two inputs and one output, all C-contiguous NumPy arrays."""

    def __init__(self, description: c_void_p, operands: list[_Operand]) -> None:
        self._primitive = c_void_p()
        _library()("dnnl_primitive_create", byref(self._primitive), description)
        self._operands = operands
        self._arguments = (_Argument * 3)()

    def __call__(
        self, first: Float32Array, second: Float32Array, result: Float32Array, accumulate: bool
    ) -> None:
        target = workspace("sum", *result.shape) if accumulate else result
        *inputs, output = self._operands
        for operand, array in zip(inputs, (first, second), strict=True):
            operand.read(array)
        output.bind(target)
        for slot, operand in zip(self._arguments, self._operands, strict=True):
            slot.arg, slot.memory = operand.argument, operand.memory
        library = _library()
        library("dnnl_primitive_execute", self._primitive, library.stream, c_int(3), self._arguments)
        output.write()
        library("dnnl_stream_wait", library.stream)
        if accumulate:
            result += target


class _Operand:
    """An argument of a primitive: the array, or a copy of it in the primitive's layout."""

    def __init__(
        self, description: c_void_p, argument: int, query: int, dims: tuple[int, ...], slot: int
    ) -> None:
        library = _library()
        self.argument, self._slot = argument, slot
        plain, layout = _plain(dims), library.layout(description, query)
        self._plain = _memory(plain)
        self._direct = library.equal(plain, layout)
        self._size = library.size(layout)
        self.memory = self._plain if self._direct else _memory(layout)
        if not self._direct:
            self._reorder_in, self._reorder_out = _reorder(plain, layout), _reorder(layout, plain)
            self._arguments_in = _pair(self._plain, self.memory)
            self._arguments_out = _pair(self.memory, self._plain)

    def bind(self, array: Float32Array) -> None:
        """Set the memory of the array and, if there is a copy, the shared memory for it."""
        _set_data(self._plain, array)
        if not self._direct:
            _set_data(self.memory, workspace(f"operand {self._slot}", self._size // 4 + 1))

    def read(self, array: Float32Array) -> None:
        """Bind an input and convert it to the primitive's layout."""
        self.bind(array)
        if not self._direct:
            library = _library()
            library("dnnl_primitive_execute", self._reorder_in, library.stream, c_int(2), self._arguments_in)

    def write(self) -> None:
        """Convert the output to the layout of the bound array."""
        if not self._direct:
            library = _library()
            library(
                "dnnl_primitive_execute", self._reorder_out, library.stream, c_int(2), self._arguments_out
            )


def _pair(source: c_void_p, target: c_void_p) -> Any:
    return (_Argument * 2)(_Argument(FROM, source), _Argument(TO, target))


def _dimensions(numbers: Sequence[int]) -> Any:
    return (c_int64 * len(numbers))(*numbers)


def _plain(dims: tuple[int, ...]) -> c_void_p:
    """The layout of a C-contiguous array."""
    strides = [int(np.prod(dims[i + 1 :])) for i in range(len(dims))]
    layout = c_void_p()
    _library()(
        "dnnl_memory_desc_create_with_strides",
        *(byref(layout), c_int(len(dims)), _dimensions(dims), c_int(FLOAT), _dimensions(strides)),
    )
    return layout


def _memory(layout: c_void_p) -> c_void_p:
    memory = c_void_p()
    _library()("dnnl_memory_create", byref(memory), layout, _library().engine, c_void_p(0))
    return memory


def _reorder(source: c_void_p, target: c_void_p) -> c_void_p:
    description, primitive = c_void_p(), c_void_p()
    engine = _library().engine
    _library()("dnnl_reorder_primitive_desc_create", byref(description), source, engine, target, engine, None)
    _library()("dnnl_primitive_create", byref(primitive), description)
    return primitive


def _set_data(memory: c_void_p, array: Float32Array) -> None:
    _library()("dnnl_memory_set_data_handle", memory, c_void_p(array.ctypes.data))
