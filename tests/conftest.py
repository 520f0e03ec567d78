# SPDX-License-Identifier: Apache-2.0
"""What all tests share: a clean NNabla, the golden arrays, and a way to start ranks."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def no_parameters_left() -> Iterator[None]:
    """NNabla keeps all parameters in one global scope: every test begins and ends with an empty one."""
    _clear_parameters()
    yield
    _clear_parameters()


def _clear_parameters() -> None:
    if "nnabla" in sys.modules:  # tests of the NumPy modules do not import it
        sys.modules["nnabla"].clear_parameters()


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Any]]:
    """golden("decode.npz"): the arrays, or golden("ap.json"): the object, of that file in tests/golden."""

    def load(name: str) -> dict[str, Any]:
        path = ROOT / "tests" / "golden" / name
        if path.suffix == ".json":
            return dict(json.loads(path.read_text(encoding="utf-8")))
        with np.load(path) as arrays:
            return dict(arrays)

    return load


@pytest.fixture(scope="session")
def mpirun() -> Callable[..., subprocess.CompletedProcess[str]]:
    """mpirun(2, "script.py", "argument", ..., timeout=60): the finished job, its output as text.

    `program`: what comes before the arguments; () if they begin with options of mpirun.

    The ranks import the package from src and shared test modules from tests. Skips the test where there is no mpirun."""
    beside_python = Path(sys.executable).parent / "mpirun"
    command = str(beside_python) if beside_python.exists() else shutil.which("mpirun")
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        # More ranks than cores, in the words of Open MPI 4 and of 5.
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }
    if os.geteuid() == 0:
        environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}

    def run(
        ranks: int,
        *arguments: str | Path,
        timeout: int = 120,
        program: Sequence[str | Path] = (sys.executable,),
    ) -> subprocess.CompletedProcess[str]:
        if command is None:
            pytest.skip("no mpirun: run `make setup`, or install Open MPI")
        return subprocess.run(
            # mpirun's own time limit ends the ranks too; killing mpirun from here would leave them running.
            [command, "--timeout", str(timeout), "-n", str(ranks), *map(str, (*program, *arguments))],
            check=False,
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout + 30,
        )

    return run
