# SPDX-License-Identifier: Apache-2.0
"""NCCL: sums of arrays over GPUs, on a CUDA stream of its own beside NNabla's.

NNabla's own communicator is not used, for four reasons (nnabla-ext-cuda 1.39,
multi_process_data_parallel_communicator.cu). It always takes the GPU whose number is the rank on the host, so
it fails where a rank sees only its own GPU. Its callback keeps a partly filled buffer for the next step. It
sums a parameter that two functions share twice. And it sends one MPI message for each parameter.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from typing import Any

from pointdet.cuda import libraries
from pointdet.errors import PointDetError

MINIMUM_VERSION = 21003  # 2.10.3

# Constants of nccl.h and cuda_runtime_api.h.
UNIQUE_ID_BYTES = 128
FLOAT32, SUM = 7, 0
NON_BLOCKING_STREAM, EVENT_WITHOUT_TIME = 1, 2
NCCL_IN_PROGRESS, CUDA_NOT_READY = 7, 600

DEFAULT_STREAM = ctypes.c_void_p(None)  # NNabla computes on CUDA's default stream

Buffer = tuple[int, int]  # address on the GPU, number of float32 values


class _UniqueId(ctypes.Structure):
    _fields_ = (("internal", ctypes.c_char * UNIQUE_ID_BYTES),)


class Nccl:
    """The communicator of one rank on the current GPU of this process."""

    def __init__(self) -> None:
        """Load the libraries. Errors: PointDetError if one is missing or too old."""
        self._nccl, self._cuda = _load("libnccl.so.2"), _load("libcudart.so.12")
        self._nccl.ncclGetErrorString.restype = ctypes.c_char_p
        self._cuda.cudaGetErrorString.restype = ctypes.c_char_p
        version = ctypes.c_int()
        self._call_nccl("ncclGetVersion", ctypes.byref(version))
        if version.value < MINIMUM_VERSION:
            raise PointDetError(f"NCCL {version.value} is too old; install NCCL 2.10.3 or later")
        self._communicator, self._stream = ctypes.c_void_p(), ctypes.c_void_p()
        self._ready, self._done = ctypes.c_void_p(), ctypes.c_void_p()
        self._waited_at = 0.0

    def unique_id(self) -> bytes:
        """An identifier for a new group of ranks. Rank 0 makes it and sends it to the others."""
        unique = _UniqueId()
        self._call_nccl("ncclGetUniqueId", ctypes.byref(unique))
        return bytes(unique)

    def join(self, unique_id: bytes, rank: int, size: int) -> None:
        """Join the group `unique_id` of `size` ranks. Returns when all ranks have joined."""
        unique = _UniqueId.from_buffer_copy(unique_id)
        self._call_nccl("ncclCommInitRank", ctypes.byref(self._communicator), size, unique, rank)
        self._call_cuda("cudaStreamCreateWithFlags", ctypes.byref(self._stream), NON_BLOCKING_STREAM)
        for event in (self._ready, self._done):
            self._call_cuda("cudaEventCreateWithFlags", ctypes.byref(event), EVENT_WITHOUT_TIME)

    def sum(self, buffers: Sequence[Buffer]) -> None:
        """Sum float32 buffers over the ranks, in place, after the work that NNabla has started so far.

        Returns at once. All ranks must give buffers of the same sizes, in the same order.
        """
        self._call_cuda("cudaEventRecord", self._ready, DEFAULT_STREAM)
        self._call_cuda("cudaStreamWaitEvent", self._stream, self._ready, 0)
        self._call_nccl("ncclGroupStart")
        for address, count in buffers:
            pointer, number = ctypes.c_void_p(address), ctypes.c_size_t(count)
            self._call_nccl(
                "ncclAllReduce", pointer, pointer, number, FLOAT32, SUM, self._communicator, self._stream
            )
        self._call_nccl("ncclGroupEnd")

    def wait(self) -> None:
        """Let NNabla's following work wait for all sums. Returns at once."""
        self._waited_at = time.monotonic()
        self._call_cuda("cudaEventRecord", self._done, self._stream)
        self._call_cuda("cudaStreamWaitEvent", DEFAULT_STREAM, self._done, 0)

    def unfinished_since(self) -> float | None:
        """The time of the last `wait`, if the sums before it are not finished. May be called from another thread.

        Errors: PointDetError if NCCL has found a fault of the network or of another rank.
        """
        code = ctypes.c_int()
        self._call_nccl("ncclCommGetAsyncError", self._communicator, ctypes.byref(code))
        if code.value not in (0, NCCL_IN_PROGRESS):
            raise _error("a sum over the GPUs", self._nccl.ncclGetErrorString(code))
        state = self._cuda.cudaEventQuery(self._done)
        if state not in (0, CUDA_NOT_READY):
            raise _error("cudaEventQuery", self._cuda.cudaGetErrorString(state))
        return self._waited_at if state else None

    def _call_nccl(self, name: str, *arguments: Any) -> None:
        if code := getattr(self._nccl, name)(*arguments):
            raise _error(name, self._nccl.ncclGetErrorString(code))

    def _call_cuda(self, name: str, *arguments: Any) -> None:
        if code := getattr(self._cuda, name)(*arguments):
            raise _error(name, self._cuda.cudaGetErrorString(code))


def _error(name: str, reason: bytes) -> PointDetError:
    return PointDetError(
        f"{name} failed ({reason.decode()}); NCCL_DEBUG=INFO shows the cause, see docs/gpu.md"
    )


def _load(name: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise PointDetError(
            f"training on several GPUs needs {name} ({error}); install it with {libraries.INSTALL}, or start one process"
        ) from None
