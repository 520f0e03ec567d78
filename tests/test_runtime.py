# SPDX-License-Identifier: Apache-2.0
"""The device and the ranks of a process, and the errors if they are not available."""

import os
import subprocess
import sys
from pathlib import Path

import nnabla as nn
import numpy as np
import pytest

from pointdet import runtime
from pointdet.errors import PointDetError
from pointdet.ops.cpu import onednn_library

SRC = Path(__file__).parents[1] / "src"


def test_cpu():
    here = runtime.start(cpu_kernels="blas")
    assert here.describe() == f"rank 0 of 1 on the CPU (blas kernels), NNabla {nn.__version__}"
    assert (here.kernels(half=False), here.kernels(half=True)) == ("blas", "nnabla")
    assert here.context().backend[0] == "cpu:float" and here.context(half=True).backend[0] == "cpu:half"
    assert here.norm_context(half=True).backend[0] == "cpu:float"  # sums in half precision overflow
    assert not here.has_channel_last
    changed = here.context()
    changed.device_id, changed.array_class = "1", "x"
    assert here.context().device_id != "1" and here.context().array_class != "x"


@pytest.mark.parametrize("installed", [False, True])
def test_cpu_kernels(monkeypatch, installed):
    monkeypatch.setattr(onednn_library, "library_file", lambda: "libdnnl.so.3" if installed else None)
    assert runtime.start().cpu_kernels == ("onednn" if installed else "blas")
    assert runtime.start(cpu_kernels="nnabla").cpu_kernels == "nnabla"
    with pytest.raises(PointDetError, match="unknown CPU kernels 'mkl'; use auto, nnabla, blas or onednn"):
        runtime.start(cpu_kernels="mkl")
    if installed:
        assert runtime.start(cpu_kernels="onednn").cpu_kernels == "onednn"
        return
    with pytest.raises(
        PointDetError, match="onednn-cpu-gomp is not installed; pip install .* or choose blas"
    ):
        runtime.start(cpu_kernels="onednn")


def test_single_process():
    ranks = runtime.start().ranks
    assert (ranks.rank, ranks.size, ranks.local_rank) == (0, 1, 0)
    np.testing.assert_array_equal(ranks.sum(np.array([1.0, 2.0])), [1, 2])
    assert ranks.gather("x") == ranks.on_host("x") == ["x"] and ranks.broadcast("x") == "x"
    gradient = nn.NdArray.from_numpy_array(np.ones(3, np.float32))
    ranks.all_reduce([gradient])
    gradient_sum = ranks.gradient_sum(nn.Variable(()), [gradient])
    assert gradient_sum.hook is None
    gradient_sum.finish()
    np.testing.assert_array_equal(gradient.data, 1)


def test_unknown_device():
    with pytest.raises(PointDetError, match="unknown device 'tpu'; use cpu or cudnn"):
        runtime.start("tpu")


START = "from pointdet import runtime; from pointdet.programs.run import run_program; run_program(lambda: print(runtime.start().ranks.size))"


def start_with(*paths, **variables):
    """Start the runtime in a new process. paths: put before the sources. variables: added to the environment."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMI", "PRTE"))
    }
    environment = {**kept, "PYTHONPATH": os.pathsep.join(map(str, [*paths, SRC])), **variables}
    return subprocess.run(
        [sys.executable, "-c", START],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_start_prints_nothing():
    result = start_with()
    assert (result.returncode, result.stdout, result.stderr) == (0, "1\n", "")


def test_mpirun_without_mpi4py(tmp_path):
    """An error, because otherwise each rank would train a separate model without a warning."""
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").write_text("raise ImportError('libmpi.so: cannot open')")
    result = start_with(tmp_path, OMPI_COMM_WORLD_SIZE="2")
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr == (
        "error: started by mpirun with 2 ranks, but mpi4py cannot be used (libmpi.so: cannot open); "
        "install Open MPI and mpi4py, or start one process without mpirun\n"
    )


def test_mpirun_of_another_mpi():
    """mpi4py then sees one rank in each process."""
    pytest.importorskip("mpi4py")
    result = start_with(PMI_SIZE="2")
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert (
        "the PMI launcher started 2 processes, but MPI sees 1; use the mpirun that belongs to"
        in result.stderr
    )


def test_communication_between_two_ranks(tmp_path, mpirun):
    script = tmp_path / "ranks.py"
    script.write_text(
        "import numpy as np, nnabla as nn\n"
        "from pointdet.runtime import start\n"
        "ranks = start().ranks\n"
        "arrays = [nn.NdArray.from_numpy_array(np.full(s, ranks.rank + 1, np.float32)) for s in ((2, 3), (4,))]\n"
        "for _ in range(2):\n"
        "    ranks.all_reduce(arrays)\n"
        "assert all((a.data == 6).all() for a in arrays), [a.data for a in arrays]\n"
        "assert ranks.sum(np.array([1.0, ranks.rank])).tolist() == [2, 1]\n"
        "assert ranks.gather(ranks.rank) == ([0, 1] if ranks.rank == 0 else None)\n"
        "assert ranks.broadcast(f'from {ranks.rank}') == 'from 0'\n"
        "assert ranks.on_host(ranks.rank) == [0, 1]\n"
        "assert (ranks.size, ranks.local_rank) == (2, ranks.rank)\n"
    )
    result = mpirun(2, script)
    assert result.returncode == 0, result.stderr
