# SPDX-License-Identifier: Apache-2.0
"""Stand-ins of NCCL and CUDA for the tests of several processes."""

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def nccl_stand_ins(tmp_path_factory):
    """The folder of libnccl.so.2 and libcudart.so.12, which compute on the CPU."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for the stand-ins of NCCL and CUDA")
    folder = tmp_path_factory.mktemp("libraries")
    for name, part in (("libnccl.so.2", "NCCL"), ("libcudart.so.12", "CUDART")):
        flags = ["-shared", "-fPIC", "-O1", f"-D{part}", f"-Wl,-soname,{name}", "-o", folder / name]
        subprocess.run([compiler, Path(__file__).with_name("stand_in.c"), *flags], check=True)
    return folder
