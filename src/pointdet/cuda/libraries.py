# SPDX-License-Identifier: Apache-2.0
"""The CUDA libraries of NVIDIA's wheels, which the dynamic linker does not find by itself."""

from __future__ import annotations

import ctypes
import re
from importlib.metadata import PackageNotFoundError, distribution

from pointdet.errors import PointDetError, last_line

PINS = "requirements-cuda120.txt"
INSTALL = f"make setup-cuda (or pip install -r {PINS})"

# (library, wheel), each after the libraries that it needs. cuDNN opens NVRTC by its name, and NNabla NCCL.
LIBRARIES = (
    ("libcudart.so.12", "nvidia-cuda-runtime-cu12"),
    ("libcublasLt.so.12", "nvidia-cublas-cu12"),
    ("libcublas.so.12", "nvidia-cublas-cu12"),
    ("libnvJitLink.so.12", "nvidia-nvjitlink-cu12"),
    ("libcusparse.so.12", "nvidia-cusparse-cu12"),
    ("libcusolver.so.11", "nvidia-cusolver-cu12"),
    ("libcurand.so.10", "nvidia-curand-cu12"),
    ("libcufft.so.11", "nvidia-cufft-cu12"),
    ("libnvrtc.so.12", "nvidia-cuda-nvrtc-cu12"),
    ("libcudnn.so.8", "nvidia-cudnn-cu12"),
    ("libnccl.so.2", "nvidia-nccl-cu12"),
)


def preload() -> list[str]:
    """Load the libraries whose wheels are installed, and return their paths.

    The extension then uses them, because the linker knows them by their names. It finds the others itself. They must
    not be global: the extension has variables with the names of NCCL's functions, and with a global NCCL it would
    write to these functions instead, and crash.
    Errors: PointDetError if a library of a wheel cannot be loaded.
    """
    paths = [path for path in map(_path, *zip(*LIBRARIES, strict=True)) if path is not None]
    for path in paths:
        try:
            ctypes.CDLL(path, mode=ctypes.RTLD_LOCAL)
        except OSError as error:
            raise missing(error) or PointDetError(
                f"{path} cannot be loaded ({last_line(error)}); install it again with {INSTALL}"
            ) from None
    return paths


def _path(library: str, wheel: str) -> str | None:
    try:
        files = distribution(wheel).files or []
    except PackageNotFoundError:
        return None
    found = [str(file.locate()) for file in files if file.name == library]
    return found[0] if found else None


def missing(error: BaseException) -> PointDetError | None:
    """The error for a library that the dynamic linker did not find; None if `error` has another reason."""
    name = re.match(r"(lib\S+): cannot open shared object file", str(error))
    if name is None:
        return None
    wheels = [f" of {wheel}" for library, wheel in LIBRARIES if library == name[1]]
    return PointDetError(
        f"the library {name[1]}{''.join(wheels)} is missing; install the versions of {PINS} with {INSTALL}"
    )
