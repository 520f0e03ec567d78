# SPDX-License-Identifier: Apache-2.0
"""The run folder: the checkpoint that is resumed, the first files of a run, and errors."""

import logging
from pathlib import Path

import numpy as np
import pytest
import tiny
import yaml

from pointdet.config.load import load
from pointdet.errors import PointDetError
from pointdet.runtime import start
from pointdet.training import run_folder
from pointdet.training.run_folder import RunFolder
from pointdet.weights import checkpoint, h5_file


@pytest.fixture
def config(data):
    return tiny.config(data)


@pytest.fixture
def log(caplog, monkeypatch):
    """The log as text. The handlers of a run are switched off."""
    monkeypatch.setattr(run_folder, "log_to_console", lambda rank: None)
    monkeypatch.setattr(run_folder, "log_to_file", lambda folder: None)
    monkeypatch.setattr(logging.getLogger("pointdet"), "propagate", True)
    caplog.set_level(logging.INFO, "pointdet")
    return caplog


def open_folder(folder, config, resume="never"):
    """The checkpoint that is resumed."""
    with RunFolder(folder, start()) as opened:
        last = opened.checkpoint(resume)
        opened.open(config)
    return last


def test_a_run_folder_contains_config_and_environment(tmp_path, config, log):
    folder = tmp_path / "runs" / "mine"
    assert open_folder(folder, config) is None
    assert load(folder / "config.yaml") == config
    assert yaml.safe_load((folder / "config.yaml").read_text())["train"]["seed"] == 317
    environment = (folder / "environment.txt").read_text()
    assert environment.startswith("rank 0 of 1 on the CPU (") and "nnabla==" in environment
    assert "rank 0 of 1 on the CPU" in log.text


STATE = {
    "weights": "parameters.h5",
    "class_names": ["cat"],
    "config": tiny.config(Path("data")).model_dump(mode="json"),
    "epoch": 1,
    "updates_per_epoch": 5,
    "loss_scale": dict.fromkeys(checkpoint.LOSS_SCALE, 0),
}


def save(folder, **state):
    """A checkpoint that can be resumed, as far as the run folder looks at it."""

    def write_files(writing):
        for name in ("parameters.h5", "solver.h5"):
            h5_file.write(writing / name, {"x": (np.zeros(100, np.float32), True)})

    whole = dict.fromkeys(checkpoint.TRAINING, 0) | STATE | state
    checkpoint.save(folder, whole, write_files)
    return folder


def test_runs_are_not_overwritten_and_missing_runs_not_resumed(tmp_path, config, log):
    with pytest.raises(PointDetError, match="no checkpoint to resume in .*mine; start without --resume"):
        open_folder(tmp_path / "mine", config, resume="always")
    assert not (tmp_path / "mine").exists()
    last = save(tmp_path / "mine" / "checkpoints" / "last")
    with pytest.raises(PointDetError, match="mine already holds a run; add --resume .* or choose another -o"):
        open_folder(tmp_path / "mine", config)
    assert not (tmp_path / "mine" / "config.yaml").exists()
    assert open_folder(tmp_path / "mine", config, resume="always") == last


def test_auto_resumes_if_there_is_something(tmp_path, config, log):
    assert open_folder(tmp_path / "mine", config, resume="auto") is None
    last = save(tmp_path / "mine" / "checkpoints" / "last")
    assert open_folder(tmp_path / "mine", config, resume="auto") == last


def test_interrupted_replacements_are_completed(tmp_path, config, log):
    folder = tmp_path / "checkpoints"
    for name in ("last", "best"):
        save(folder / f".{name}.old")
    assert open_folder(tmp_path, config, resume="always") == folder / "last"
    assert {path.name for path in folder.iterdir()} == {"last", "best"}


@pytest.mark.parametrize("file", ["state.json", "parameters.h5", "solver.h5"])
def test_a_broken_last_checkpoint_is_replaced_by_the_newest_whole_one(tmp_path, config, log, file):
    folder = tmp_path / "checkpoints"
    for epoch in (1, 2, 3):
        save(folder / f"epoch_{epoch:04d}", epoch=epoch)
    broken = save(folder / "last", epoch=3) / file
    broken.write_bytes(broken.read_bytes()[:-30])
    (folder / "epoch_0003" / "solver.h5").unlink()  # train.save_solver is `last`
    assert open_folder(tmp_path, config, resume="always") == folder / "epoch_0002"
    assert str(broken) in log.text and "an older checkpoint is tried" in log.text
    assert "epoch_0003" not in log.text


def test_a_broken_checkpoint_does_not_block_another_one(tmp_path, config, log):
    last = save(tmp_path / "checkpoints" / "last")
    (save(tmp_path / "checkpoints" / "epoch_0001") / "state.json").write_text("{")
    assert open_folder(tmp_path, config, resume="always") == last


@pytest.mark.parametrize("resume", ["always", "auto"])
def test_no_checkpoint_can_be_resumed(tmp_path, config, log, resume):
    """A new run would replace what is there, so `auto` does not start one."""
    (save(tmp_path / "checkpoints" / "last") / "parameters.h5").write_bytes(b"")
    (save(tmp_path / "checkpoints" / "best") / "solver.h5").unlink()
    with pytest.raises(
        PointDetError, match="no checkpoint in .* can be resumed; start a new run .*--checkpoint"
    ):
        open_folder(tmp_path, config, resume=resume)


def test_an_older_checkpoint_is_chosen_by_its_iteration(tmp_path, log):
    folder = tmp_path / "checkpoints"
    for name, epoch in (("epoch_0001", 1), ("epoch_0002", 2), ("best", 2)):
        save(folder / name, epoch=epoch)
    runtime = start()
    with RunFolder(tmp_path, runtime) as run_folder:
        assert run_folder.checkpoint("never", iteration=5) == folder / "epoch_0001"
        assert run_folder.checkpoint("always") == folder / "epoch_0002"  # because there is no `last`
        with pytest.raises(PointDetError, match="no checkpoint of iteration 7; it has those of 5, 10"):
            run_folder.checkpoint("always", iteration=7)
        with pytest.raises(PointDetError, match="already holds a run"):
            run_folder.checkpoint("never")
        run_folder.set_aside_newer(10)
        assert "iteration" not in log.text
        run_folder.set_aside_newer(5)
        assert f"the checkpoints after iteration 5 are now in {folder / 'set_aside_1'}" in log.text
        assert run_folder.checkpoint("always") == folder / "epoch_0001"
    with (
        RunFolder(tmp_path / "none", runtime) as run_folder,
        pytest.raises(PointDetError, match="no checkpoint to resume in .*none; start without --iter"),
    ):
        run_folder.checkpoint("never", iteration=5)


def test_another_configuration_keeps_its_predecessor(tmp_path, config, log, data):
    folder = tmp_path / "mine"
    others = [tiny.config(data, f"train.num_epochs={epochs}") for epochs in (5, 6)]
    for present in (config, config, *others):
        open_folder(folder, present, resume="auto")
    found = {path.name: load(path) for path in folder.glob("*.yaml")}
    assert found == {"config_1.yaml": config, "config_2.yaml": others[0], "config.yaml": others[1]}


def test_no_permission(tmp_path, config, log):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        PointDetError, match=r"cannot write to .*file/run \(Not a directory\); choose another"
    ):
        open_folder(tmp_path / "file" / "run", config)
