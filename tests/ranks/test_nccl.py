# SPDX-License-Identifier: Apache-2.0
"""The NCCL binding with two ranks on the CPU: stand-ins for NCCL and CUDA sum in shared memory."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny

from pointdet.cuda import libraries
from pointdet.errors import PointDetError
from pointdet.ranks import nccl_library
from pointdet.ranks.nccl_library import Nccl

HERE = Path(__file__).parent


@pytest.mark.parametrize("late", [False, True], ids=["as early as possible", "as late as possible"])
def test_training_with_nccl_is_that_with_mpi(nccl_stand_ins, mpirun, tmp_path, late):
    """The same parameters to the last bit: a sum of two numbers does not depend on the order."""
    tiny.draw(tmp_path / "data", train=16, val=0)
    result = mpirun(
        2, HERE / "nccl_training.py", nccl_stand_ins, tmp_path / "data", tmp_path, *["late"] * late
    )
    assert result.returncode == 0, result.stderr
    for network in ("resnet", "cornernet"):
        found = {
            way: [dict(np.load(tmp_path / f"{network}_{way}_{rank}.npz")) for rank in (0, 1)]
            for way in ("mpi", "nccl")
        }
        groups = {way: [int(rank.pop("groups")) for rank in ranks] for way, ranks in found.items()}
        assert groups["nccl"][0] - groups["mpi"][0] > 20  # several buckets in each step
        for with_nccl, with_mpi in zip(found["nccl"], found["mpi"], strict=True):
            for name, array in with_mpi.items():  # every rank has its own running statistics
                np.testing.assert_array_equal(with_nccl[name], array, err_msg=name)


def test_missing_libraries(monkeypatch):
    def refuse(name):
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(nccl_library.ctypes, "CDLL", refuse)
    with pytest.raises(PointDetError, match=r"several GPUs needs libnccl.so.2 .*make setup-cuda"):
        Nccl()


def test_the_real_nccl_reaches_the_driver():
    """The functions and the unique identifier are those of the real library. Without a GPU, joining fails."""
    if not (paths := libraries.preload()) or "libnccl" not in paths[-1]:
        pytest.skip("the wheel of NCCL is not installed (make setup-cuda)")
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a GPU, on which a rank would really join")
    nccl = Nccl()
    unique_id = nccl.unique_id()
    assert len(unique_id) == 128 and any(unique_id)
    with pytest.raises(PointDetError, match=r"ncclCommInitRank failed \(unhandled cuda error\)"):
        nccl.join(unique_id, 0, 1)
