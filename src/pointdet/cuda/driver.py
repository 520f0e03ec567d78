# SPDX-License-Identifier: Apache-2.0
"""The NVIDIA driver: whether it is new enough, and the cards that it shows. CUDA is not initialised here."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from ctypes import byref, c_char_p, c_int, c_uint, c_void_p

from pointdet.errors import PointDetError, last_line

DRIVER, MANAGEMENT = "libcuda.so.1", "libnvidia-ml.so.1"
# CUDA 12.0 as cuDriverGetVersion counts, and the first driver for every CUDA 12.x (minor version compatibility).
OLDEST_CUDA, OLDEST_DRIVER = 12000, "525.60.13"
USE_THE_CPU = "use the CPU with --gpus -1 or --extension_module cpu"

UUID_SIZE = 96  # NVML_DEVICE_UUID_V2_BUFFER_SIZE


def require() -> None:
    """Check the driver. Errors: PointDetError if there is none, or if it is older than CUDA 12.0."""
    try:
        library = ctypes.CDLL(DRIVER)
    except OSError as error:
        raise PointDetError(
            f"no NVIDIA driver ({last_line(error)}); install driver {OLDEST_DRIVER} or later (a container needs "
            f"docker run --gpus all), or {USE_THE_CPU}"
        ) from None
    version = c_int()
    if library.cuDriverGetVersion(byref(version)) == 0 and version.value < OLDEST_CUDA:
        raise PointDetError(
            f"the NVIDIA driver is for CUDA {version.value // 1000}.{version.value % 1000 // 10}, and NNabla's "
            f"extension needs CUDA 12; install driver {OLDEST_DRIVER} or later, or {USE_THE_CPU}"
        )


def failure() -> str:
    """Why CUDA cannot be initialised. It is initialised if it can be, so CUDA_VISIBLE_DEVICES must be set before."""
    library, text = ctypes.CDLL(DRIVER), c_char_p()
    library.cuGetErrorString(library.cuInit(c_uint(0)), byref(text))
    return (text.value or b"unknown error").decode()


def uuids() -> tuple[str, ...] | None:
    """The UUIDs of the cards that this process may use, in NVML's order; None if NVML does not work.

    CUDA_VISIBLE_DEVICES has no effect on them, but the device cgroup of a job or container has.
    """
    try:
        nvml = ctypes.CDLL(MANAGEMENT)
    except OSError:
        return None
    if nvml.nvmlInit_v2() != 0:
        return None
    try:
        count = c_uint()
        if nvml.nvmlDeviceGetCount_v2(byref(count)) != 0:
            return None
        return tuple(_usable(nvml, count.value))
    finally:
        nvml.nvmlShutdown()


def _usable(nvml: ctypes.CDLL, count: int) -> Iterator[str]:
    """NVML also counts the cards that this process may not use; it gives no handle for them."""
    for index in range(count):
        handle, uuid = c_void_p(), ctypes.create_string_buffer(UUID_SIZE)
        if nvml.nvmlDeviceGetHandleByIndex_v2(c_uint(index), byref(handle)) == 0:
            nvml.nvmlDeviceGetUUID(handle, uuid, c_uint(UUID_SIZE))
            yield uuid.value.decode()
