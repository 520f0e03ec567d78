# SPDX-License-Identifier: Apache-2.0
"""Resident memory stays flat over inputs of 40 sizes and over 50 predictors, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from pointdet.ops.cpu.onednn_library import library_file

ROOT = Path(__file__).parents[2]
WITH_ONEDNN = pytest.mark.skipif(library_file() is None, reason="onednn-cpu-gomp is not installed")
KERNELS = ["nnabla", "blas", pytest.param("onednn", marks=WITH_ONEDNN)]
# MB from the 10th to the last round: 0.1 to 2. When all graphs, descriptions and primitives were kept: 25 to 80
# over the sizes, and 38 over the predictors with oneDNN.
BOUND = 8

PROGRAM = """
import resource, sys
from pathlib import Path
import numpy as np
from pointdet.model.restore import restore
from pointdet.runtime import start

checkpoint, kernels, rounds = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
runtime, rng = start(cpu_kernels=kernels), np.random.default_rng(0)

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6

def images(height, width):
    return rng.integers(0, 256, (1, height, width, 3), np.uint8)

if rounds == "sizes":
    network = restore(checkpoint, runtime).network()
    for k in range(40):  # the largest first, so that work space does not grow
        network(images(192 - 32 * (k // 8), 288 - 32 * (k % 8)))
        if k == 9:
            before = resident()
else:
    for k in range(50):
        restore(checkpoint, runtime).network()(images(64, 64))
        if k == 9:
            before = resident()
print(resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
@pytest.mark.parametrize("rounds", ["sizes", "predictors"])
@pytest.mark.parametrize("kernels", KERNELS)
def test_memory_stays_flat(tmp_path, kernels, rounds):
    checkpoint = tiny.write_checkpoint(tmp_path / "best", tiny.model(tiny.config(tmp_path)))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(checkpoint), kernels, rounds],
        check=False,
        env=os.environ | threads | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < BOUND
