# SPDX-License-Identifier: Apache-2.0
"""Two ranks under a real Slurm, where there is one."""

import csv
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

from pointdet.config.load import dump

ROOT = Path(__file__).parents[2]


def _state_of_slurm():
    """Why Slurm cannot be used, or an empty text."""
    if shutil.which("srun") is None:
        return "no srun: Slurm is not installed"
    found = subprocess.run(
        ["sinfo", "-h", "-o", "%T"], check=False, capture_output=True, text=True, timeout=20
    )
    return "" if "idle" in found.stdout else f"no idle node of Slurm: {found.stdout or found.stderr}"


REASON = _state_of_slurm()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON or "-")


def srun(mpi, folder, config):
    command = [
        "srun",
        f"--mpi={mpi}",
        "-n",
        "2",
        "--time=2",
        sys.executable,
        ROOT / "src" / "main.py",
        "ctdet",
    ]
    settings = ["--gpus", "-1", "--set", "train.num_epochs=1"]
    return subprocess.run(
        [*command, "--train-config", config, "-o", folder, *settings],
        check=False,
        capture_output=True,
        text=True,
        timeout=150,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    tiny.draw(folder / "data", train=10, val=5)
    (folder / "tiny.yaml").write_text(dump(tiny.config(folder / "data")), encoding="utf-8")
    return folder / "tiny.yaml"


def test_pmix(config, tmp_path):
    result = srun("pmix", tmp_path / "run", config)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("rank 0 of 2") == 1 and "rank 1" not in result.stderr
    with (tmp_path / "run" / "journal.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3"]  # 10 images, 4 in each step


@pytest.mark.parametrize("mpi", ["pmi2", "none"])
def test_processes_that_cannot_communicate_do_not_train(config, tmp_path, mpi):
    result = srun(mpi, tmp_path / "run", config)
    assert result.returncode != 0 and not (tmp_path / "run").exists()
    sentence = (
        "error: srun started 2 processes, but MPI sees 1; start with srun --mpi=pmix, or with mpirun inside"
    )
    assert result.stderr.count(sentence) == 2


def test_the_script_of_the_documentation(config, tmp_path):
    """The signal before the time limit ends the ranks with a checkpoint, and Slurm starts the job again."""
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    script = re.search(r"```bash\n(#!/bin/bash\n.*?)```", page, re.DOTALL)[1]
    for old, new in {
        "--nodes=2": "--nodes=1",
        "--ntasks-per-node=8": "--ntasks-per-node=2",
        "#SBATCH --gpus-per-node=8\n": f"#SBATCH --output={tmp_path}/output\n",
        "--cpus-per-task=8": "--cpus-per-task=1",
        "pointdet train": f"{sys.executable} {ROOT}/src/main.py ctdet --gpus -1 --set train.num_epochs=2000",
        "resnet_18_coco_mp --data_dir /data/coco": str(config),
        "/shared/runs/coco": f"{tmp_path}/run",
    }.items():
        assert old in script, old
        script = script.replace(old, new)
    (tmp_path / "train.sbatch").write_text(script, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    job = _do("sbatch", "--parsable", tmp_path / "train.sbatch", env=environment).strip()
    try:
        log, output = tmp_path / "run" / "log.txt", tmp_path / "output"
        _wait(lambda: log.is_file() and "step 2/3" in log.read_text(), output)
        _do("scancel", "--signal=USR1", "--batch", job)
        _wait(lambda: "; continue with --resume" in log.read_text(), output)
        _wait(lambda: "Restarts=1" in _do("scontrol", "show", "job", job), output)
    finally:
        _do("scancel", job)
    assert "Traceback" not in output.read_text()


def _do(*command, **options):
    return subprocess.run(
        list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True, timeout=30, **options
    ).stdout


def _wait(condition, output):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, output.read_text() if output.is_file() else "no output"
        time.sleep(0.2)
