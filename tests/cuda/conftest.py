# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for NVIDIA's driver and for NNabla's CUDA extension, so that no test needs a GPU."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_stand_ins import CUDA, NVML, compiled

SRC = Path(__file__).parents[2] / "src"


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """A folder with libcuda.so.1 and libnvidia-ml.so.1."""
    folder = tmp_path_factory.mktemp("driver")
    compiled(CUDA, "libcuda.so.1", folder)
    compiled(NVML, "libnvidia-ml.so.1", folder)
    return folder


@pytest.fixture(scope="session")
def no_driver():
    """Skips the test if this machine has NVIDIA's driver."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return
    pytest.skip("this machine has NVIDIA's driver")


@pytest.fixture
def extension(tmp_path):
    """extension(code): a folder with a package nnabla_ext.cudnn of this code, which imports nnabla_ext.cuda."""

    def write(code):
        for name, content in {"cuda": "", "cudnn": f"import nnabla_ext.cuda\n{code}\n"}.items():
            package = tmp_path / "extension" / "nnabla_ext" / name
            package.mkdir(parents=True)
            (package / "__init__.py").write_text(content)
        return tmp_path / "extension"

    return write


@pytest.fixture
def python():
    """python(code, paths=(), driver=None, **variables): the finished process.

    paths are put before the sources, driver before the linker's folders. The process has no MPI and no CUDA variables
    but those of `variables`.
    """

    def run(code, paths=(), driver=None, **variables):
        removed = ("OMPI_", "PMI", "PRTE", "CUDA_VISIBLE", "STUB_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(removed)}
        sources = os.pathsep.join(map(str, [*paths, SRC, os.environ.get("PYTHONPATH", "")])).rstrip(":")
        libraries = {} if driver is None else {"LD_LIBRARY_PATH": str(driver)}
        return subprocess.run(
            [sys.executable, "-c", code],
            check=False,
            env=kept | {"PYTHONPATH": sources} | libraries | variables,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run
