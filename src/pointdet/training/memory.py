# SPDX-License-Identifier: Apache-2.0
"""The memory that the training uses, for the log."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path


def memory_in_use(on_gpu: bool) -> str:
    """Resident memory of this process and, with `on_gpu`, the used memory of its GPU: "1.2 GB, GPU 10.4 GB".

    The memory of the GPU is that of all processes. The loader's processes are not counted.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    text = f"{pages * os.sysconf('SC_PAGE_SIZE') / 1e9:.1f} GB"
    if on_gpu and (used := _of_gpu()) is not None:
        text += f", GPU {used / 1e9:.1f} GB"
    return text


def _of_gpu() -> int | None:
    """Bytes in use on the current GPU, or None if CUDA does not say."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    runtime = ctypes.CDLL("libcudart.so.12")  # the CUDA extension has loaded it
    if runtime.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)):
        return None
    return total.value - free.value
