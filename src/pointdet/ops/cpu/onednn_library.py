# SPDX-License-Identifier: Apache-2.0
"""The library oneDNN 3.x and its objects, which are destroyed with the Python objects that hold them.

Names and numbers are those of the C interface, dnnl.h and dnnl_types.h.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from ctypes import Structure, byref, c_float, c_int, c_int64, c_size_t, c_void_p
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

from pointdet.arrays import Float32Array
from pointdet.errors import PointDetError
from pointdet.ops.cpu.memory import workspace

PACKAGE = "onednn-cpu-gomp"
FILE = "libdnnl.so.3"

CPU, IN_ORDER, FLOAT, ANY = 1, 1, 3, 1
SCRATCHPAD = (80, 136)  # index of the argument, and the query for its memory layout
SCRATCHPAD_OF_THE_CALLER = 1
RELU, ADD, MULTIPLY, MAXIMUM = 0x20, 0x1FFF0, 0x1FFF1, 0x1FFF2  # algorithms
POST_OPERATION, SECOND_SOURCE = 32768, 2  # parts of the index of an argument
# Primitives that the library keeps after they are destroyed. Its own choice, 1024, is those of a dozen graphs.
KEPT_PRIMITIVES = 256


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


def require() -> str:
    """Path of the installed library. Errors: PointDetError if it is not installed."""
    file = library_file()
    if file is None:
        raise PointDetError(
            f"runtime.cpu_kernels is onednn, but {PACKAGE} is not installed; "
            f"pip install {PACKAGE}, or choose blas"
        )
    return file


class Handle:
    """An object of the library, an argument of `Library.__call__`. It is destroyed with its last reference."""

    def __init__(self, kind: str, create: str, *arguments: Any) -> None:
        """Call `create` with these arguments. `kind`: as in the name of the function that destroys it."""
        self._as_parameter_ = pointer = c_void_p()
        loaded = library()
        loaded(create, byref(pointer), *arguments)
        # The end of the process frees everything.
        weakref.finalize(self, loaded, f"dnnl_{kind}_destroy", pointer).atexit = False


class Library:
    """The loaded library with its engine. Threads share it; each has a stream of its own."""

    def __init__(self, file: str) -> None:
        self._functions = ctypes.CDLL(file)
        self._thread = threading.local()
        self.engine = c_void_p()
        self("dnnl_engine_create", byref(self.engine), c_int(CPU), c_size_t(0))
        self("dnnl_set_primitive_cache_capacity", c_int(KEPT_PRIMITIVES))
        os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        """OpenMP's threads do not exist in a forked child. The thread that forked would wait for them for ever."""
        if hasattr(self._thread, "stream") and self._functions.omp_get_max_threads() > 1:
            self._thread.substitute = ThreadPoolExecutor(1, thread_name_prefix="oneDNN")

    @property
    def substitute(self) -> Executor | None:
        """The thread that executes primitives in place of this one, if this is the thread of a forked child."""
        return getattr(self._thread, "substitute", None)

    def __call__(self, function: str, *arguments: Any) -> None:
        status = getattr(self._functions, function)(*arguments)
        if status:
            raise RuntimeError(f"oneDNN: {function} gave status {status}")

    @property
    def stream(self) -> Handle:
        """The stream of this thread."""
        if not hasattr(self._thread, "stream"):
            create = ("dnnl_stream_create", self.engine, c_int(IN_ORDER))
            self._thread.stream = Handle("stream", *create)
        stream: Handle = self._thread.stream
        return stream

    def layout(self, description: Handle, query: int) -> c_void_p:
        """The memory layout that a primitive uses for an argument. It belongs to the description."""
        function = self._functions.dnnl_primitive_desc_query_md
        function.restype = c_void_p
        return c_void_p(function(description, c_int(query), c_int(0)))

    def size(self, layout: c_void_p | Handle) -> int:
        """Bytes of an array in this layout."""
        function = self._functions.dnnl_memory_desc_get_size
        function.restype = c_size_t
        return int(function(layout))

    def equal(self, one: c_void_p | Handle, other: c_void_p | Handle) -> bool:
        return bool(self._functions.dnnl_memory_desc_equal(one, other))


_loading = threading.Lock()


def library() -> Library:
    """The library, loaded at the first call. Errors: PointDetError if it is not installed."""
    return _loaded() if _loaded.cache_info().currsize else _load()


def _load() -> Library:
    with _loading:
        return _loaded()


@lru_cache(maxsize=1)
def _loaded() -> Library:
    return Library(require())


def dimensions(numbers: Sequence[int]) -> Any:
    return (c_int64 * len(numbers))(*numbers)


def layout_of(dims: tuple[int, ...], strides: Sequence[int]) -> Handle:
    """The layout of float32 values with these strides, in values."""
    shape = (c_int(len(dims)), dimensions(dims), c_int(FLOAT))
    return Handle("memory_desc", "dnnl_memory_desc_create_with_strides", *shape, dimensions(strides))


def plain_layout(dims: tuple[int, ...]) -> Handle:
    """The layout of a C-contiguous array."""
    return layout_of(dims, [math.prod(dims[i + 1 :]) for i in range(len(dims))])


def map_layout(shape: tuple[int, ...]) -> Handle:
    """The layout of a map (B, H, W, C), whose dimensions the library orders as B, C, H, W."""
    b, height, width, c = shape
    return layout_of((b, c, height, width), (height * width * c, 1, width * c, c))


def any_layout(dims: tuple[int, ...]) -> Handle:
    """A layout that the library chooses."""
    shape = (c_int(len(dims)), dimensions(dims), c_int(FLOAT))
    return Handle("memory_desc", "dnnl_memory_desc_create_with_tag", *shape, c_int(ANY))


def attributes(*operations: int | tuple[int, Handle]) -> Handle:
    """Attributes of a primitive whose result goes through these operations.

    Each operation is RELU, or ADD, MULTIPLY or MAXIMUM with the layout of a second array, which may have one value
    per channel or in all. `operand_of` gives the index of the argument of this array.
    """
    made = Handle("primitive_attr", "dnnl_primitive_attr_create")
    # A scratchpad of the library belongs to the thread that creates the primitive: the primitive would crash in
    # every other thread.
    library()("dnnl_primitive_attr_set_scratchpad_mode", made, c_int(SCRATCHPAD_OF_THE_CALLER))
    if operations:
        chain = Handle("post_ops", "dnnl_post_ops_create")
        for operation in operations:
            if isinstance(operation, tuple):
                kind, layout = operation
                library()("dnnl_post_ops_append_binary", chain, c_int(kind), layout)
            else:
                library()("dnnl_post_ops_append_eltwise", chain, c_int(operation), c_float(0), c_float(0))
        library()("dnnl_primitive_attr_set_post_ops", made, chain)
    return made


def operand_of(operation: int) -> int:
    """The index of the argument that is the second array of operation number `operation`."""
    return POST_OPERATION * (operation + 1) | SECOND_SOURCE


class Kernel:
    """A compiled primitive. Threads share it."""

    def __init__(self, description: Handle) -> None:
        self.description = description
        self.primitive = Handle("primitive", "dnnl_primitive_create", description)
        self.scratchpad_layout = library().layout(description, SCRATCHPAD[1])
        self.scratchpad_size = library().size(self.scratchpad_layout)


def reorder(source: c_void_p | Handle, target: c_void_p | Handle) -> Kernel:
    """The conversion of an array from one layout to another."""
    ends = (source, library().engine, target, library().engine)
    create = ("dnnl_reorder_primitive_desc_create", *ends, attributes())
    return Kernel(Handle("primitive_desc", *create))


class Memory:
    """An array as an argument. Each thread has its own."""

    def __init__(self, layout: c_void_p | Handle) -> None:
        self.handle = Handle("memory", "dnnl_memory_create", layout, library().engine, c_void_p(0))
        self._address = 0

    def bind(self, array: Float32Array) -> None:
        """Use this array."""
        address = array.ctypes.data
        if address != self._address:
            library()("dnnl_memory_set_data_handle", self.handle, c_void_p(address))
            self._address = address


class Execution:
    """A kernel with the arguments of one thread."""

    def __init__(self, kernel: Kernel, arguments: Sequence[tuple[int, Memory]]) -> None:
        """`arguments`: index and array of each argument."""
        self._kernel, self._memories = kernel, [memory for _, memory in arguments]
        self._scratchpad: Memory | None = None
        table = list(arguments)
        if kernel.scratchpad_size:
            self._scratchpad = Memory(kernel.scratchpad_layout)
            table.append((SCRATCHPAD[0], self._scratchpad))
        slots = [_Argument(index, memory.handle._as_parameter_) for index, memory in table]
        self._arguments = (c_int(len(slots)), (_Argument * len(slots))(*slots))
        self._stream = library().stream

    def __call__(self) -> None:
        if self._scratchpad is not None:
            self._scratchpad.bind(workspace("scratchpad", self._kernel.scratchpad_size // 4 + 1))
        library()("dnnl_primitive_execute", self._kernel.primitive, self._stream, *self._arguments)

    def wait(self) -> None:
        """Wait for the end of everything that this thread started."""
        library()("dnnl_stream_wait", self._stream)
