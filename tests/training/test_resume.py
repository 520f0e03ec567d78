# SPDX-License-Identifier: Apache-2.0
"""A run that was stopped or killed goes on as if nothing had happened, bit for bit."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny

from pointdet.weights import checkpoint, h5_file

MAIN = Path(__file__).parents[2] / "src" / "main.py"
ROWS = 32  # of the whole training: 4 epochs of 8 steps
OF_TIME = ("images_per_second", "waiting_for_data")

# main.py, where the second checkpoint hangs while the first is already renamed and the second is not yet.
HANGING = """
import sys, time
from pathlib import Path
rename = Path.rename

def hanging(path, target):
    if path.name == ".last.writing" and path.with_name(".last.old").exists():
        print("hangs", flush=True)
        time.sleep(600)
    return rename(path, target)

Path.rename = hanging
from pointdet.programs.run import run_program
from pointdet.programs.train import main
run_program(main)
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    tiny.draw(folder / "data", train=16, val=2)
    return tiny.write_config(folder / "tiny.yaml", folder / "data")


def command(config, folder, *arguments, program=(MAIN,)):
    settings = (
        "train.num_epochs=4",
        "train.workers=1",
        "train.ema_decay=0.9",
        "train.val_intervals=2",
        "train.save_solver=all",
        tiny.VALIDATION,
    )
    overrides = [word for setting in settings for word in ("--set", setting)]
    return [
        sys.executable,
        *program,
        "ctdet",
        "--train-config",
        config,
        "-o",
        folder,
        *overrides,
        "--gpus",
        "-1",
        *arguments,
    ]


def start(*arguments, **options):
    environment = os.environ | {"PYTHONPATH": str(MAIN.parent)}
    # A session of its own: what it leaves behind can be found.
    return subprocess.Popen(
        command(*arguments, **options),
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments):
    process = start(*arguments)
    _, log = process.communicate(timeout=120)
    assert process.returncode == 0, log
    return log


def journal(folder):
    path = folder / "journal.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if name not in OF_TIME} for row in rows]


def wait_for_steps(process, folder, count):
    """Until the journal has `count` rows of steps."""
    deadline = time.monotonic() + 60
    while len([row for row in journal(folder) if row["total"]]) < count:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.002)


def assert_nobody_left(process):
    """The loader's workers end too."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    pytest.fail("a process of a killed run lives on")


def assert_same_run(folder, whole):
    assert journal(folder) == journal(whole)
    for name in ("total", "lr"):
        series = (folder / "monitor" / f"{name}.series.txt").read_text()
        assert series == (whole / "monitor" / f"{name}.series.txt").read_text()
    for name in ("last", "best"):
        ours, theirs = folder / "checkpoints" / name, whole / "checkpoints" / name
        states = [checkpoint.read_state(ours), checkpoint.read_state(theirs)]
        for state in states:
            del state["config"]  # of the interval that the killed run saved at
        assert states[0] == states[1]
        for file in ("parameters.h5", "ema.h5", "solver.h5"):
            found, expected = h5_file.read(ours / file), h5_file.read(theirs / file)
            assert set(found) == set(expected)
            for key, array in expected.items():
                np.testing.assert_array_equal(found[key], array, err_msg=f"{file} {key}")


@pytest.fixture(scope="module")
def whole(config):
    """The run that nothing interrupts; it keeps a checkpoint of step 16."""
    folder = config.parent / "whole"
    run(config, folder, "--set", "train.save_intervals=2")
    rows = journal(folder)
    assert [row["step"] for row in rows if row["total"]] == [str(step + 1) for step in range(ROWS)]
    assert [row["step"] for row in rows if row["AP"]] == ["16", "32"]
    return folder


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_stopped_by_a_scheduler_or_a_lost_ssh_session(config, whole, tmp_path, number):
    """A signal for all processes of the job; then another job, from the middle of an epoch to the end."""
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("the tests run under nohup")
    folder = tmp_path / "run"
    process = start(config, folder)
    wait_for_steps(process, folder, 10)
    os.killpg(process.pid, number)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM  # not 0: the training is not done
    assert "continue with --resume" in log and "Traceback" not in log
    assert_nobody_left(process)
    state = checkpoint.read_state(folder / "checkpoints" / "last")
    steps = 8 * state["epoch"] + state["update"]
    assert 10 <= steps < ROWS
    assert journal(folder) == [row for row in journal(whole) if int(row["step"]) <= steps]
    assert f"epoch {state['epoch'] + 1}, step {state['update']}" in run(config, folder, "--resume")
    assert_same_run(folder, whole)


@pytest.mark.parametrize("save_minutes", [0, 0.002], ids=["end of epoch", "within an epoch"])
def test_killed_within_an_epoch(config, whole, tmp_path, save_minutes):
    folder = tmp_path / "run"
    often = ("--set", f"train.save_minutes={save_minutes}")
    process = start(config, folder, *often)
    wait_for_steps(process, folder, 20)  # four steps into the third epoch
    process.kill()
    process.communicate(timeout=60)
    assert_nobody_left(process)
    assert len(journal(folder)) < len(journal(whole))
    last = checkpoint.find(folder / "checkpoints" / "last")
    state = checkpoint.read_state(last)
    assert state["epoch"] >= 2
    if save_minutes == 0:
        assert state["update"] == 0
    run(config, folder, "--resume")
    assert_same_run(folder, whole)


def test_killed_while_a_checkpoint_is_replaced(config, whole, tmp_path):
    folder = tmp_path / "run"
    process = start(config, folder, program=("-c", HANGING))
    assert process.stdout.readline() == "hangs\n"
    process.kill()
    process.communicate(timeout=60)
    assert_nobody_left(process)
    left = {path.name for path in (folder / "checkpoints").iterdir()}
    assert left == {".last.old", ".last.writing"}
    run(config, folder, "--resume")
    assert_same_run(folder, whole)
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"last", "best"}


def test_resuming_a_run_that_is_done(config, whole):
    before = journal(whole)
    run(config, whole, "--resume")
    assert journal(whole) == before


def test_continued_from_an_older_checkpoint(config, whole, tmp_path):
    """--iter: as if the run had been stopped there; the checkpoints of what came after are kept elsewhere."""
    folder = shutil.copytree(whole, tmp_path / "run")
    log = run(config, folder, "--iter", "16")
    aside = folder / "checkpoints" / "set_aside_1"
    assert f"the checkpoints after iteration 16 are now in {aside}" in log and "epoch 3, step 0" in log
    assert_same_run(folder, whole)
    assert {"epoch_0004", "last"} <= {path.name for path in aside.iterdir()} <= {"epoch_0004", "last", "best"}
    assert checkpoint.read_state(aside / "last") == checkpoint.read_state(whole / "checkpoints" / "last")
