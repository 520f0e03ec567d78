# SPDX-License-Identifier: Apache-2.0
"""Correlations through oneDNN 3.x, where its library is installed (the extra `onednn`).

The library chooses memory layouts; arrays are brought there and back by its own reorders, in memory that all layers
share. Names and numbers are those of its C interface, dnnl.h and dnnl_types.h.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from ctypes import Structure, byref, c_int, c_int64, c_size_t, c_void_p
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import numpy as np

from pointdet.errors import PointDetError
from pointdet.ops.cpu.correlation import Geometry
from pointdet.ops.cpu.memory import Floats, workspace

PACKAGE = "onednn-cpu-gomp"
FILE = "libdnnl.so.3"

CPU, IN_ORDER, FLOAT, ANY = 1, 1, 3, 1
DIRECT = 1  # the algorithm
FORWARD_TRAINING = 64
# Argument -> what a primitive is asked for its layout.
SRC, WEIGHTS, DST = (1, 129), (33, 131), (17, 133)
DIFF_SRC, DIFF_WEIGHTS, DIFF_DST = (129, 130), (161, 132), (145, 134)
FROM, TO = 1, 17  # of a reorder


class _Argument(Structure):
    _fields_ = (("arg", c_int), ("memory", c_void_p))


def library_file() -> str | None:
    """The installed library's file, or None."""
    try:
        files = distribution(PACKAGE).files or []
    except PackageNotFoundError:
        return None
    found = [str(f.locate()) for f in files if f.name == FILE]
    return os.path.realpath(found[0]) if found else None


class _Library:
    """The library, an engine and a stream of this process."""

    def __init__(self, file: str) -> None:
        self._functions = ctypes.CDLL(file)
        self.engine, self.stream = c_void_p(), c_void_p()
        self("dnnl_engine_create", byref(self.engine), c_int(CPU), c_size_t(0))
        self("dnnl_stream_create", byref(self.stream), self.engine, c_int(IN_ORDER))

    def __call__(self, function: str, *arguments: Any) -> None:
        status = getattr(self._functions, function)(*arguments)
        if status:
            raise RuntimeError(f"oneDNN: {function} gave status {status}")

    def asked(self, description: c_void_p, query: int) -> c_void_p:
        """The layout of an argument."""
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
    """The library's file. Errors: PointDetError where it is not installed."""
    file = library_file()
    if file is None:
        raise PointDetError(
            f"runtime.cpu_kernels is onednn, but {PACKAGE} is not installed; pip install {PACKAGE}, or choose blas"
        )
    return file


@lru_cache(maxsize=1)
def _library() -> _Library:
    return _Library(require())


class OneDnn:
    """`Correlation` of one geometry; primitives are made when first asked for."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = g = geometry
        self._shapes = {
            "large": (g.batch, g.channels, g.height, g.width),
            "small": (g.batch, g.out_channels, g.rows, g.columns),
            "kernel": (g.out_channels, g.channels // g.groups, g.kernel, g.kernel),
        }
        self._primitives: dict[str, _Primitive] = {}

    def reduce(self, kernel: Floats, large: Floats, small: Floats, add: bool) -> None:
        self._run("reduce", kernel, large, small, add)

    def spread(self, kernel: Floats, small: Floats, large: Floats, add: bool) -> None:
        self._run("spread", kernel, small, large, add)

    def learn(self, large: Floats, small: Floats, kernel: Floats, add: bool) -> None:
        self._run("learn", large, small, kernel, add)

    def _run(self, name: str, first: Floats, second: Floats, result: Floats, add: bool) -> None:
        if name not in self._primitives:
            self._primitives[name] = getattr(self, f"_make_{name}")()
        self._primitives[name](first, second, result, add)

    def _make_reduce(self) -> _Primitive:
        description = self._describe_forward()
        arguments = [(WEIGHTS, "kernel"), (SRC, "large"), (DST, "small")]
        return self._primitive(description, arguments)

    def _make_spread(self) -> _Primitive:
        description = c_void_p()
        _library()(
            "dnnl_convolution_backward_data_primitive_desc_create",
            *(byref(description), _library().engine, c_int(DIRECT)),
            *(self._layout("large"), self._layout("kernel"), self._layout("small")),
            *(*self._steps(), self._describe_forward(), None),
        )
        arguments = [(WEIGHTS, "kernel"), (DIFF_DST, "small"), (DIFF_SRC, "large")]
        return self._primitive(description, arguments)

    def _make_learn(self) -> _Primitive:
        description = c_void_p()
        _library()(
            "dnnl_convolution_backward_weights_primitive_desc_create",
            *(byref(description), _library().engine, c_int(DIRECT)),
            *(self._layout("large"), self._layout("kernel"), None, self._layout("small")),
            *(*self._steps(), self._describe_forward(), None),
        )
        arguments = [(SRC, "large"), (DIFF_DST, "small"), (DIFF_WEIGHTS, "kernel")]
        return self._primitive(description, arguments)

    def _describe_forward(self) -> c_void_p:
        description = c_void_p()
        _library()(
            "dnnl_convolution_forward_primitive_desc_create",
            *(byref(description), _library().engine, c_int(FORWARD_TRAINING), c_int(DIRECT)),
            *(self._layout("large"), self._layout("kernel"), None, self._layout("small")),
            *(*self._steps(), None),
        )
        return description

    def _steps(self) -> tuple[Any, ...]:
        """Strides, dilations (0 is none) and paddings."""
        g = self._geometry
        return tuple(_dimensions((n, n)) for n in (g.stride, g.dilation - 1, g.pad, g.pad))

    def _dims(self, name: str) -> tuple[int, ...]:
        shape, groups = self._shapes[name], self._geometry.groups
        return (groups, shape[0] // groups, *shape[1:]) if name == "kernel" and groups > 1 else shape

    def _layout(self, name: str) -> c_void_p:
        """Left to the library; but a kernel of one cell multiplies plain maps as they are, without a reorder."""
        if self._geometry.kernel == 1:
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
    """Two operands and a result, each a NumPy array in its plain layout."""

    def __init__(self, description: c_void_p, operands: list[_Operand]) -> None:
        self._primitive = c_void_p()
        _library()("dnnl_primitive_create", byref(self._primitive), description)
        self._operands = operands
        self._arguments = (_Argument * 3)()

    def __call__(self, first: Floats, second: Floats, result: Floats, add: bool) -> None:
        target = workspace("sum", *result.shape) if add else result
        *inputs, output = self._operands
        for operand, array in zip(inputs, (first, second), strict=True):
            operand.bring(array)
        output.prepare(target)
        for slot, operand in zip(self._arguments, self._operands, strict=True):
            slot.arg, slot.memory = operand.argument, operand.memory
        library = _library()
        library("dnnl_primitive_execute", self._primitive, library.stream, c_int(3), self._arguments)
        output.fetch()
        library("dnnl_stream_wait", library.stream)
        if add:
            result += target


class _Operand:
    """An argument of a primitive: the array itself, or a copy in the primitive's layout."""

    def __init__(
        self, description: c_void_p, argument: int, query: int, dims: tuple[int, ...], slot: int
    ) -> None:
        library = _library()
        self.argument, self._slot = argument, slot
        plain, layout = _plain(dims), library.asked(description, query)
        self._plain = _memory(plain)
        self._direct = library.equal(plain, layout)
        self._size = library.size(layout)
        self.memory = self._plain if self._direct else _memory(layout)
        if not self._direct:
            self._there, self._back = _reorder(plain, layout), _reorder(layout, plain)
            self._there_arguments = _pair(self._plain, self.memory)
            self._back_arguments = _pair(self.memory, self._plain)

    def prepare(self, array: Floats) -> None:
        """Point at the array and, where it is needed, at the shared memory of this slot."""
        _point(self._plain, array)
        if not self._direct:
            _point(self.memory, workspace(f"operand {self._slot}", self._size // 4 + 1))

    def bring(self, array: Floats) -> None:
        """The array's values to where the primitive reads them."""
        self.prepare(array)
        if not self._direct:
            library = _library()
            library("dnnl_primitive_execute", self._there, library.stream, c_int(2), self._there_arguments)

    def fetch(self) -> None:
        """What the primitive wrote to the array."""
        if not self._direct:
            library = _library()
            library("dnnl_primitive_execute", self._back, library.stream, c_int(2), self._back_arguments)


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


def _point(memory: c_void_p, array: Floats) -> None:
    _library()("dnnl_memory_set_data_handle", memory, c_void_p(array.ctypes.data))
