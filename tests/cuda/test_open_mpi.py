# SPDX-License-Identifier: Apache-2.0
"""The Open MPI that NNabla's extension opens is the one that mpi4py has loaded."""

import pytest

from pointdet.cuda import open_mpi

MAPS = """\
7f00-7f01 r-xp 00000000 fe:00 1   /venv/lib/libc.so.6
7f01-7f02 r-xp 00000000 fe:00 2   /venv/site-packages/mpi4py/MPI.openmpi.so
7f02-7f03 r--p 00000000 fe:00 3   /a folder/lib/libmpi.so.40.30.2
7f04-7f05 rw-p 00000000 00:00 0
7f05-7f06 rw-p 00000000 00:00 0   [stack]
"""
# What the extension does at its import, with the library of this process, before and after.
OPEN = """
import ctypes, os
from pathlib import Path
from mpi4py import MPI
from pointdet.cuda import open_mpi
home = os.environ.get("OMPI_HOME")
loaded = open_mpi.loaded_library()
with open_mpi.found_by_nnabla():
    folder = Path(os.environ["OMPI_HOME"])
    library = folder / "lib" / "libmpi.so"
    size = ctypes.c_int()
    assert library.samefile(loaded) and hasattr(ctypes.CDLL(str(library)), "ompi_mpi_comm_world")
assert os.environ.get("OMPI_HOME") == home
print(folder, folder.exists())
"""


@pytest.fixture(autouse=True)
def mpi4py():
    mpi = pytest.importorskip("mpi4py")
    return mpi


def test_the_library_is_found_in_the_map_of_the_process(tmp_path):
    (tmp_path / "maps").write_text(MAPS)
    assert str(open_mpi.loaded_library(tmp_path / "maps")) == "/a folder/lib/libmpi.so.40.30.2"
    (tmp_path / "maps").write_text(MAPS.replace("libmpi.so.40", "libcuda.so.1"))
    assert open_mpi.loaded_library(tmp_path / "maps") is None


def test_a_private_folder_leads_to_the_library(python, tmp_path):
    result = python(OPEN, TMPDIR=str(tmp_path))
    folder, exists = result.stdout.split()
    assert folder.startswith(str(tmp_path)) and exists == "False", result.stderr
    assert not list(tmp_path.glob("pointdet-*"))


@pytest.mark.parametrize("content", [None, "INPUT(libmpi.so.40)"])
def test_an_ompi_home_that_does_not_lead_there_is_not_used(python, tmp_path, content):
    """pip's Open MPI has such a text as lib/libmpi.so."""
    if content:
        (tmp_path / "lib").mkdir()
        (tmp_path / "lib" / "libmpi.so").write_text(content)
    folder, exists = python(OPEN, OMPI_HOME=str(tmp_path)).stdout.split()
    assert folder != str(tmp_path) and exists == "False"


def test_an_ompi_home_that_leads_there_stays(python, tmp_path):
    printed = python(
        "from mpi4py import MPI; from pointdet.cuda import open_mpi; print(open_mpi.loaded_library())"
    )
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libmpi.so").symlink_to(printed.stdout.strip())
    assert python(OPEN, OMPI_HOME=str(tmp_path)).stdout.split() == [str(tmp_path), "True"]


def test_nothing_is_made_without_mpi(python):
    code = (
        "import os\nfrom pointdet.cuda import open_mpi\n"
        "with open_mpi.found_by_nnabla():\n    print(os.environ.get('OMPI_HOME'))"
    )
    assert python(code).stdout == "None\n"
