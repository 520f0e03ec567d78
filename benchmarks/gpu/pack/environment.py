# SPDX-License-Identifier: Apache-2.0
"""env.sh of an unpacked pack: after `. env.sh`, python3 is the Python of the pack.

Standard library only, for Python 3.8 or newer. CUDA's libraries are not on LD_LIBRARY_PATH: the project finds
them as wheels.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

# Prints the libraries of its arguments that the dynamic linker does not find.
PROBE = """
import ctypes, sys
for name in sys.argv[1:]:
    try:
        ctypes.CDLL(name)
    except OSError:
        print(name)
"""
# Everything that the programs, the tests and the checks import.
IMPORTS = """
import bz2, ctypes, decimal, hashlib, lzma, multiprocessing, sqlite3, ssl, sys, uuid, zlib
import numpy, scipy.ndimage, scipy.optimize, scipy.sparse, h5py, yaml, tqdm, PIL.Image, cv2
import pycocotools.cocoeval, faster_coco_eval, pydantic, safetensors, tensorboardX, onnx, pytest, mpi4py.MPI
import nnabla, nnabla.functions, nnabla.parametric_functions, nnabla.solvers
print("imports work: Python", sys.version.split()[0], "numpy", numpy.__version__, "nnabla", nnabla.__version__)
"""
DRIVER = ("libcuda.so.1", "libnvidia-ml.so.1")
DRIVER_FOLDERS = ("/usr/local/nvidia", "/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/local/cuda")


def prepare(folder: Path) -> None:
    """Write `folder`/env.sh and try the imports: first with the libraries of this machine.

    Only libraries that this machine lacks are taken from the pack. If the imports fail, all are.
    Stops with an error if they fail again.
    """
    root = folder / "root"
    carried = sorted(f.name for f in (root / "deps").iterdir() if f.name != "liblz4.so.1")
    missing = _not_found(carried)
    write_environment(folder)
    for used in (missing, carried):
        libraries = root / "system"
        shutil.rmtree(str(libraries), ignore_errors=True)
        libraries.mkdir()
        for name in used:
            (libraries / name).symlink_to(Path("..", "deps", name))
        print(f"libraries of the pack in use: {' '.join(used) or 'none'}", flush=True)
        done = run_in(folder, ["python3", "-c", IMPORTS])
        if done.returncode == 0:
            print(f"{done.stdout.strip().splitlines()[-1]}\nnow: . {folder / 'env.sh'}", flush=True)
            return
        print(done.stderr, file=sys.stderr, flush=True)
    (folder / "env.sh").unlink()
    sys.exit("error: the Python of the pack does not work on this machine; the reason is above")


def write_environment(folder: Path) -> None:
    """Write env.sh."""
    root = folder / "root"
    own = [str(root / name) for name in ("python/lib", "system", "stand_ins")]
    lines = [
        "# python3 is the Python of the pack:  . env.sh",
        f'export PATH="{root}/python/bin:$PATH"',
        f'export LD_LIBRARY_PATH="{":".join(own + driver_folders())}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"',
        "unset PYTHONHOME PYTHONPATH PYTHONSTARTUP VIRTUAL_ENV",
        "export PYTHONUNBUFFERED=1 PYTHONNOUSERSITE=1",
        "export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8} OPENBLAS_NUM_THREADS=${OPENBLAS_NUM_THREADS:-8}",
        "# CUDA loads a kernel when it is first used, and compiles PTX once.",
        f'export CUDA_MODULE_LOADING=LAZY CUDA_CACHE_PATH="{folder}/cache" CUDA_CACHE_MAXSIZE=4294967296',
        "# Open MPI: its new place, root, more ranks than cores.",
        f'export OPAL_PREFIX="{root}/python"',
        "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
        "export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe",
        "export NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-lo}",
    ]
    (folder / "env.sh").write_text("\n".join(lines) + "\n", encoding="utf-8")


def driver_folders() -> list[str]:
    """Folders of the NVIDIA driver's libraries that the dynamic linker does not find."""
    folders: list[str] = []
    for name in _not_found(DRIVER):
        for top in DRIVER_FOLDERS:
            found = [f for f, _, files in os.walk(top) if name in files and "stubs" not in f]
            if found:
                folders += [f for f in found[:1] if f not in folders]
                break
        else:
            print(f"warning: this machine has no {name}, which is part of NVIDIA's driver", flush=True)
    return folders


def run_in(folder: Path, command: list[str]) -> subprocess.CompletedProcess:
    """Run a command with env.sh."""
    script = '. "$0"; exec "$@"'
    return subprocess.run(
        ["bash", "-c", script, str(folder / "env.sh"), *command],
        check=False,
        capture_output=True,
        text=True,
    )


def _not_found(libraries) -> list[str]:
    """The libraries that the dynamic linker of this machine does not find."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *libraries],
        check=True,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout.split()
