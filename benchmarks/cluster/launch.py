# SPDX-License-Identifier: Apache-2.0
"""Start ranks with mpirun."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def find_mpirun() -> str | None:
    """The mpirun beside this Python, or that of the system, or None."""
    beside_python = Path(sys.executable).parent / "mpirun"
    return str(beside_python) if beside_python.exists() else shutil.which("mpirun")


def mpirun() -> str:
    """The mpirun to use. Errors: SystemExit if there is none."""
    command = find_mpirun()
    if command is None:
        raise SystemExit("no mpirun: run `make setup`, or install Open MPI")
    return command


def environment() -> dict[str, str]:
    """The environment of a rank: one thread; root may use mpirun."""
    values = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    if os.geteuid() == 0:
        values |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return values


def last_line(command: Sequence[str], what: str) -> Any:
    """Run `command` and return its last line of output, which is JSON. Errors: SystemExit if it fails."""
    done = subprocess.run(command, check=False, env=environment(), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{what} ended with status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])
