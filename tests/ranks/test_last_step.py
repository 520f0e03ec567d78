# SPDX-License-Identifier: Apache-2.0
"""A rank that stops answering: rank 0 saves the last whole step before it ends, and the run goes on from there."""

import csv
from pathlib import Path

import numpy as np
import pytest
import tiny

from pointdet.config.load import dump
from pointdet.weights import checkpoint, h5_file

HERE = Path(__file__).parent
MAIN = HERE.parents[1] / "src" / "main.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.draw(tmp_path_factory.mktemp("data"), train=20, val=4)


def write_config(path, data, *settings):
    """Two epochs of five steps of two images for each rank, or of three steps of four images."""
    fixed = ("train.workers=1", "train.ema_decay=0.5", "runtime.communication_timeout=3")
    path.write_text(dump(tiny.config(data, *fixed, *settings)), encoding="utf-8")
    return path


def arguments(config, folder):
    return ["ctdet", "--train-config", config, "-o", folder, "--gpus", "-1"]


def trained(folder, name):
    """The arrays of a file of `last` which are the same on all ranks: all but the running statistics."""
    arrays = h5_file.read(folder / "checkpoints" / "last" / name)
    return {n: a for n, a in arrays.items() if not n.endswith(("bn/mean", "bn/var"))}


def end_by(event, mpirun, config, folder):
    """The error line of a run in which rank 1 stops answering."""
    result = mpirun(2, HERE / "interfere.py", event, "1", *arguments(config, folder), timeout=90)
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    lines = [line for line in map(str.strip, result.stderr.splitlines()) if line.startswith("error: ")]
    assert len(lines) == 1 and lines[0].startswith("error: rank 0 has waited 3 s for the other ranks"), lines
    assert lines[0] in (folder / "log.txt").read_text(encoding="utf-8")
    return lines[0]


@pytest.fixture(scope="module")
def regular(data, mpirun, tmp_path_factory):
    """A run that a signal stopped after the fourth step."""
    folder = tmp_path_factory.mktemp("regular")
    config = write_config(folder / "tiny.yaml", data, "train.save_minutes=0")
    result = mpirun(2, HERE / "interfere.py", "stop at 3", "1", *arguments(config, folder / "run"))
    assert result.returncode == 143, result.stderr
    return folder / "run"


@pytest.mark.parametrize("event", ["freeze at 5", "freeze at save"])
def test_the_last_whole_step_is_saved(data, mpirun, tmp_path, regular, event):
    """Rank 0 waits in the sum of the gradients of step 5, or in the saving of step 4."""
    folder, last = tmp_path / "run", tmp_path / "run" / "checkpoints" / "last"
    config = write_config(
        tmp_path / "tiny.yaml", data, f"train.save_minutes={0 if event == 'freeze at 5' else 1e-6}"
    )
    line = end_by(event, mpirun, config, folder)
    assert f"; {last} has epoch 1, step 4, with the running statistics of rank 0 alone; start again" in line
    assert checkpoint.fault(last) is None and not (last / "statistics.h5").exists()
    state, expected = (checkpoint.read_state(f / "checkpoints" / "last") for f in (folder, regular))
    assert (state["epoch"], state["update"], state["step"]) == (0, 4, 4)
    assert {n: v for n, v in state.items() if n != "config"} == {
        n: v for n, v in expected.items() if n != "config"
    }
    for name in ("parameters.h5", "ema.h5", "solver.h5"):
        found, other = trained(folder, name), trained(regular, name)
        assert set(found) == set(other)
        for key, array in other.items():
            np.testing.assert_array_equal(found[key], array, err_msg=f"{name}: {key}")

    result = mpirun(2, MAIN, *arguments(config, folder), "--resume", timeout=90)
    assert result.returncode == 0, result.stderr
    assert f"resumed {last} at epoch 1, step 4" in result.stderr
    with (folder / "journal.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == [str(step) for step in range(1, 11)]
    assert checkpoint.read_state(last)["epoch"] == 2


def test_a_step_of_several_passes_is_whole_or_not_at_all(data, mpirun, tmp_path):
    """Rank 1 stops between the two passes of the fifth step. The checkpoint of the epoch is of the third."""
    folder, last = tmp_path / "run", tmp_path / "run" / "checkpoints" / "last"
    config = write_config(tmp_path / "tiny.yaml", data, "train.accumulate=2", "train.save_minutes=0")
    end_by("freeze at 10", mpirun, config, folder)
    state = checkpoint.read_state(last)
    assert (state["epoch"], state["update"], state["step"]) == (1, 1, 4)
    assert checkpoint.fault(last) is None


def test_a_validation_has_nothing_to_save(data, mpirun, tmp_path):
    """The parameters are those of the moving average then. The epoch before it is saved already."""
    folder, last = tmp_path / "run", tmp_path / "run" / "checkpoints" / "last"
    settings = ("train.val_intervals=1", "train.save_minutes=0", tiny.VALIDATION)
    config = write_config(tmp_path / "tiny.yaml", data, *settings)
    line = end_by("freeze at validation", mpirun, config, folder)
    assert "; no step was completed after the last checkpoint, which stays as it is; start again" in line
    state = checkpoint.read_state(last)
    assert (state["epoch"], state["update"], state["validation_due"]) == (1, 0, True)
    assert (last / "statistics.h5").exists()


@pytest.mark.parametrize("program", ["train", "test"])
def test_work_of_rank_0_does_not_count_as_waiting(data, mpirun, tmp_path, program):
    """A checkpoint and the AP take 4 s each, the limit is 3 s."""
    folder = tmp_path / "run"
    settings = ("train.num_epochs=1", "train.val_intervals=1", tiny.VALIDATION)
    config = write_config(tmp_path / "tiny.yaml", data, *settings)
    call = arguments(config, folder)
    if program == "test":
        tiny.write_checkpoint(folder, tiny.model(tiny.config(data, *settings)))
        limit = ("--set", "runtime.communication_timeout=3")
        call = [
            "--checkpoint_dir",
            tmp_path,
            "--save_dir",
            tmp_path / "results",
            "--gpus",
            "-1",
            "--split",
            "val",
            *limit,
        ]
    result = mpirun(2, HERE / "slow_rank_0.py", program, *call, timeout=90)
    assert result.returncode == 0, result.stderr
    if program == "train":
        assert checkpoint.read_state(folder / "checkpoints" / "best")["epoch"] == 1
    else:
        assert (tmp_path / "results" / "checkpoints.csv").exists()
