# SPDX-License-Identifier: Apache-2.0
"""Two Ctrl-C in the middle of a step end a training at once; the checkpoint before it stays."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from pointdet.config.load import dump
from pointdet.weights import checkpoint

ROOT = Path(__file__).parents[2]
# Sends both signals while the third step is in its forward pass, 5 ms apart.
PROGRAM = """
import os, signal, threading, time
from pointdet.programs import train
from pointdet.programs.run import run_program
from pointdet.training.graph import TrainingGraph

whole, calls = getattr(TrainingGraph, PART), []

def twice():
    for _ in range(2):
        time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

def interrupted(self, *arguments):
    calls.append(1)
    if len(calls) == 3:
        threading.Thread(target=twice).start()
    return whole(self, *arguments)

setattr(TrainingGraph, PART, interrupted)
run_program(train.main)
"""


@pytest.mark.parametrize("part", ["forward", "backward"])
@pytest.mark.parametrize("kernels", ["nnabla", "blas"])
def test_two_ctrl_c_in_the_middle_of_a_step(tmp_path, kernels, part):
    tiny.draw(tmp_path / "data", train=4, val=0)
    settings = ("input.height=256", "input.width=256", "train.num_epochs=3", f"runtime.cpu_kernels={kernels}")
    (tmp_path / "tiny.yaml").write_text(dump(tiny.config(tmp_path / "data", *settings)), encoding="utf-8")
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("PART", repr(part)), "--train-config", tmp_path / "tiny.yaml"]
        + ["-o", tmp_path / "run", "--gpus", "-1"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )
    assert process.returncode == 130, process.stderr
    assert process.stderr.endswith("\ninterrupted\n") and "Traceback" not in process.stderr
    state = checkpoint.read_state(tmp_path / "run" / "checkpoints" / "last")
    assert (state["epoch"], state["update"]) == (1, 0)
