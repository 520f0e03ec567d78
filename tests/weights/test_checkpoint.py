# SPDX-License-Identifier: Apache-2.0
"""A checkpoint is whole or not there, whatever happens while it is written."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pointdet.errors import PointDetError
from pointdet.weights import checkpoint, h5_file

# Writes checkpoint 1, then checkpoint 2 with one of its system calls hanging: `hang` is "owner.name number".
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

# Where the writer is killed -> the checkpoint that must be found then, and what lies in the folder.
MOMENTS = {
    "group create_dataset 45": (1, {"last", ".last.writing"}),  # half of the second file
    "os fsync 2": (1, {"last", ".last.writing"}),
    "Path rename 1": (1, {"last", ".last.writing"}),
    "Path rename 2": (1, {".last.old", ".last.writing"}),
    "shutil rmtree 3": (2, {"last", ".last.old"}),
    "Path rename 3": (2, {"last"}),  # never called: the writer comes to its end
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
        said = writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
    epoch, left = MOMENTS[moment]
    assert said == ("done\n" if moment == "Path rename 3" else "hangs\n")
    assert {path.name for path in tmp_path.iterdir()} == left

    assert checkpoint.find(folder) == folder
    assert checkpoint.read_state(folder)["epoch"] == epoch
    for file in ("parameters.h5", "solver.h5"):
        arrays = h5_file.read(folder / file)
        assert len(arrays) == 30 and all((array == epoch).all() for array in arrays.values())

    checkpoint.save(folder, {"epoch": 3}, write_files(3))  # what the killed writer left is no hindrance
    assert {path.name for path in tmp_path.iterdir()} == {"last"}
    assert checkpoint.read_state(folder)["epoch"] == 3


def test_killed_while_writing_the_first(tmp_path):
    (tmp_path / ".last.writing").mkdir()
    (tmp_path / ".last.writing" / "state.json").write_text("{}")
    assert checkpoint.find(tmp_path / "last") is None


def test_nothing_there(tmp_path):
    assert checkpoint.find(tmp_path / "runs" / "last") is None


def run_of(folder, **iterations):
    """A folder of checkpoints, ten updates in each epoch."""
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


def test_newer_checkpoints_are_set_aside(tmp_path):
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


def test_interrupted_replacements_are_completed(tmp_path):
    run_of(tmp_path, **{".epoch_0002.old": 20, "last": 30, ".last.old": 20})
    checkpoint.complete(tmp_path)
    assert [(n, path.name) for n, path in checkpoint.by_iteration(tmp_path)] == [
        (20, "epoch_0002"),
        (30, "last"),
    ]


def test_a_disk_that_cannot_be_written_leaves_the_older_checkpoint(tmp_path):
    folder = tmp_path / "last"
    checkpoint.save(folder, {"epoch": 1}, write_files(1))

    def full(folder):
        write_files(2)(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(PointDetError, match="last .No space left on device.; free space"):
        checkpoint.save(folder, {"epoch": 2}, full)
    assert checkpoint.find(folder) == folder
    assert checkpoint.read_state(folder)["epoch"] == 1
    assert (h5_file.read(folder / "parameters.h5")["layer/W"] == 1).all()
    assert [path.name for path in tmp_path.iterdir()] == ["last"]  # and the disk as full as before


def test_an_error_that_hdf5_tells_in_its_own_way(tmp_path):
    def full(folder):
        raise RuntimeError(
            "Can't decrement id ref count (file write failed: errno = 28, error message = 'x')"
        )

    with pytest.raises(PointDetError, match="last .No space left on device.; free space"):
        checkpoint.save(tmp_path / "last", {}, full)


def test_another_error_stays_what_it_is(tmp_path):
    def broken(folder):
        raise RuntimeError("no such layer")

    with pytest.raises(RuntimeError, match="no such layer"):
        checkpoint.save(tmp_path / "last", {}, broken)


def test_no_place_to_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PointDetError, match="cannot write the checkpoint .*file/last"):
        checkpoint.save(tmp_path / "file" / "last", {}, write_files(1))


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
def test_what_is_no_checkpoint_is_said(tmp_path, text, words):
    if text is not None:
        Path(tmp_path, "state.json").write_text(text)
    with pytest.raises(PointDetError, match=words):
        checkpoint.read_state(tmp_path)
