# SPDX-License-Identifier: Apache-2.0
"""A checkpoint is written completely or not at all, also if the process is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pointdet.errors import PointDetError
from pointdet.weights import checkpoint, h5_file

# Writes checkpoint 1, then checkpoint 2, and hangs in one call. Arguments: folder, "owner name number".
WRITER = """
import os, shutil, sys, time
from pathlib import Path
import h5py
import numpy as np
from pointdet.weights import checkpoint, h5_file

folder, (owner, name, number) = Path(sys.argv[1]), sys.argv[2].split()

def write_files(folder):
    for file in ("parameters.h5", "solver.h5"):
        h5_file.write(folder / file, {f"layer{i}/W": (np.full((40, 50), step), True) for i in range(30)})

step = 1
checkpoint.save(folder, {"epoch": 1}, write_files)
owner = {"os": os, "shutil": shutil, "Path": Path, "group": h5py.Group}[owner]
original, calls = getattr(owner, name), []

def hanging(*arguments, **options):
    calls.append(name)
    if len(calls) == int(number):
        print("hangs", flush=True)
        time.sleep(600)
    return original(*arguments, **options)

setattr(owner, name, hanging)
step = 2
checkpoint.save(folder, {"epoch": 2}, write_files)
print("done", flush=True)
"""

# Call in which the writer is killed -> epoch of the checkpoint that is left, names in the folder.
MOMENTS = {
    "group create_dataset 45": (1, {"last", ".last.writing"}),  # half of the second file
    "os fsync 2": (1, {"last", ".last.writing"}),
    "Path rename 1": (1, {"last", ".last.writing"}),
    "Path rename 2": (1, {".last.old", ".last.writing"}),
    "shutil rmtree 3": (2, {"last", ".last.old"}),
    "Path rename 3": (2, {"last"}),  # never called: the writer ends normally
}


def write_files(step):
    def write(folder):
        h5_file.write(folder / "parameters.h5", {"layer/W": (np.full((2, 3), step), True)})

    return write


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_while_writing(tmp_path, moment):
    folder = tmp_path / "last"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", WRITER, str(folder), moment]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as writer:
        line = writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
    epoch, left = MOMENTS[moment]
    assert line == ("done\n" if moment == "Path rename 3" else "hangs\n")
    assert {path.name for path in tmp_path.iterdir()} == left

    assert checkpoint.find(folder) == folder
    assert checkpoint.read_state(folder)["epoch"] == epoch
    for file in ("parameters.h5", "solver.h5"):
        arrays = h5_file.read(folder / file)
        assert len(arrays) == 30 and all((array == epoch).all() for array in arrays.values())

    checkpoint.save(folder, {"epoch": 3}, write_files(3))  # in spite of the files of the killed writer
    assert {path.name for path in tmp_path.iterdir()} == {"last"}
    assert checkpoint.read_state(folder)["epoch"] == 3


def test_killed_while_writing_the_first(tmp_path):
    (tmp_path / ".last.writing").mkdir()
    (tmp_path / ".last.writing" / "state.json").write_text("{}")
    assert checkpoint.find(tmp_path / "last") is None


def test_no_checkpoint(tmp_path):
    assert checkpoint.find(tmp_path / "runs" / "last") is None


def run_of(folder, **iterations):
    """Write checkpoints with these names and numbers of updates; an epoch has ten updates."""
    for name, number in iterations.items():
        state = {"epoch": number // 10, "updates_per_epoch": 10, "update": number % 10}
        checkpoint.save(folder / name, state, write_files(number))
    return folder


def test_checkpoints_by_iteration(tmp_path):
    folder = run_of(tmp_path, last=43, best=40, epoch_0002=20, epoch_0004=40)
    (folder / ".best.writing").mkdir()
    (folder / ".best.writing" / "state.json").write_text("{}")
    found = [(number, path.name) for number, path in checkpoint.by_iteration(folder)]
    assert found == [(20, "epoch_0002"), (40, "best"), (40, "epoch_0004"), (43, "last")]
    assert checkpoint.at_iteration(folder, 20) == folder / "epoch_0002"
    with pytest.raises(PointDetError, match="has no checkpoint of iteration 30; it has those of 20, 40, 43$"):
        checkpoint.at_iteration(folder, 30)
    with pytest.raises(
        PointDetError, match="nothing has no checkpoint of iteration 30; give the folder of a run$"
    ):
        checkpoint.at_iteration(folder / "nothing", 30)


def test_newer_checkpoints_are_moved_to_a_subfolder(tmp_path):
    folder = run_of(tmp_path, last=43, best=40, epoch_0002=20, epoch_0004=40)
    assert checkpoint.set_aside(folder, 43) is None
    assert checkpoint.set_aside(folder, 20) == folder / "set_aside_1"
    run_of(folder, last=30)
    assert checkpoint.set_aside(folder, 20) == folder / "set_aside_2"
    left = {path.parent.relative_to(folder).as_posix() for path in folder.rglob("state.json")}
    assert left == {
        *("epoch_0002", "set_aside_1/last", "set_aside_1/best", "set_aside_1/epoch_0004", "set_aside_2/last")
    }
    assert (h5_file.read(folder / "set_aside_1/last/parameters.h5")["layer/W"] == 43).all()


def test_error_while_writing_leaves_the_older_checkpoint(tmp_path):
    """All other errors of writing are tested in tests/test_files.py."""
    folder = tmp_path / "last"
    checkpoint.save(folder, {"epoch": 1}, write_files(1))

    def disk_full(folder):
        write_files(2)(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(PointDetError, match=r"cannot write .*last \(No space left on device\)"):
        checkpoint.save(folder, {"epoch": 2}, disk_full)
    assert checkpoint.read_state(folder)["epoch"] == 1
    assert (h5_file.read(folder / "parameters.h5")["layer/W"] == 1).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "is no checkpoint, it has no state.json"),
        ('{"format": 1, "epo', "state.json is broken"),
        ('{"format": 2}', "has another format than 1"),
        ('{"epoch": 3}', "has another format than 1"),
        ("[1]", "has another format than 1"),
    ],
)
def test_folder_that_is_no_checkpoint(tmp_path, text, words):
    if text is not None:
        Path(tmp_path, "state.json").write_text(text)
    with pytest.raises(PointDetError, match=words):
        checkpoint.read_state(tmp_path)


STATE = {
    "weights": "parameters.h5",
    "class_names": ["cat"],
    "config": {"dataset": {}},
    "epoch": 1,
    "update": 2,
    "updates_per_epoch": 3,
    "ranks": 1,
    "best_ap": None,
    "loss_scale": {"value": 1.0, "good_steps": 0, "skipped_steps": 0, "skips_in_a_row": 0},
}


@pytest.mark.parametrize("key", STATE)
def test_a_missing_key(tmp_path, key):
    checkpoint.save(tmp_path / "last", {k: v for k, v in STATE.items() if k != key}, write_files(1))
    with pytest.raises(PointDetError, match=f"state.json has no '{key}'; take another checkpoint of the run"):
        checkpoint.read_state(tmp_path / "last", checkpoint.TRAINING)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            ("weights", value)
            for value in ("../x.h5", "/etc/x.h5", "a/b.h5", "a\\b.h5", "", "..", "a\0", 3, None)
        ),
        *(
            ("class_names", value)
            for value in ([], ["a", "a"], ["a", 1], [["a"]], [""], "cat", None, {"a": 1})
        ),
        *(("config", value) for value in ([], None, "text")),
        *(("epoch", value) for value in (-1, 1.5, True, None, 10**30, [], float("nan"))),
        *(("updates_per_epoch", value) for value in (-1, "3")),
        *(("step", value) for value in (-1, "3", None)),
        *(("validation_due", value) for value in (0, "no", None)),
        *(("best_ap", value) for value in ("0.5", [], 10**400)),
        *(("loss_scale", value) for value in ({}, None, {"update": 5}, STATE["loss_scale"] | {"value": "1"})),
    ],
)
def test_a_value_of_another_kind(tmp_path, key, value):
    checkpoint.save(tmp_path / "last", STATE | {key: value}, write_files(1))
    with pytest.raises(
        PointDetError, match=f"state.json: '{key}' is not .*; take another checkpoint of the run"
    ):
        checkpoint.read_state(tmp_path / "last")
    assert checkpoint.by_iteration(tmp_path) == []  # it does not block the other checkpoints


def test_a_whole_state(tmp_path):
    for best in (None, 0.5, float("nan")):
        checkpoint.save(tmp_path / "last", STATE | {"best_ap": best}, write_files(1))
        assert checkpoint.read_state(tmp_path / "last", checkpoint.TRAINING)["class_names"] == ["cat"]


def test_deep_nesting(tmp_path):
    (tmp_path / "state.json").write_text("[" * 100_000)
    with pytest.raises(PointDetError, match="state.json is broken"):
        checkpoint.read_state(tmp_path)
