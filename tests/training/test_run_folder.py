# SPDX-License-Identifier: Apache-2.0
"""The run folder: the checkpoint that is resumed, the first files of a run, and errors."""

import logging

import pytest
import tiny
import yaml

from pointdet.config.load import load
from pointdet.errors import PointDetError
from pointdet.runtime import start
from pointdet.training import run_folder
from pointdet.weights import checkpoint


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


def open_folder(folder, config, resume=False):
    """Call `begin` and `open_folder`."""
    runtime = start()
    last = run_folder.begin(folder, resume, runtime)
    run_folder.open_folder(folder, config, runtime)
    return last


def test_a_run_folder_contains_config_and_environment(tmp_path, config, log):
    folder = tmp_path / "runs" / "mine"
    assert open_folder(folder, config) is None
    assert load(folder / "config.yaml") == config
    assert yaml.safe_load((folder / "config.yaml").read_text())["train"]["seed"] == 317
    environment = (folder / "environment.txt").read_text()
    assert environment.startswith("rank 0 of 1 on the CPU (") and "nnabla==" in environment
    assert "rank 0 of 1 on the CPU" in log.text


def test_runs_are_not_overwritten_and_missing_runs_not_resumed(tmp_path, config, log):
    with pytest.raises(PointDetError, match="no checkpoint to resume in .*mine; start without --resume"):
        open_folder(tmp_path / "mine", config, resume=True)
    assert not (tmp_path / "mine").exists()
    checkpoint.save(tmp_path / "mine" / "checkpoints" / "last", {}, lambda folder: None)
    with pytest.raises(PointDetError, match="mine already holds a run; add --resume .* or choose another -o"):
        open_folder(tmp_path / "mine", config)
    assert not (tmp_path / "mine" / "config.yaml").exists()
    last = tmp_path / "mine" / "checkpoints" / "last"
    assert open_folder(tmp_path / "mine", config, resume=True) == last


def test_interrupted_replacements_are_completed(tmp_path, config, log):
    folder = tmp_path / "checkpoints"
    for name in ("last", "best"):
        checkpoint.save(folder / f".{name}.old", {"epoch": 1}, lambda folder: None)
    assert open_folder(tmp_path, config, resume=True) == folder / "last"
    assert {path.name for path in folder.iterdir()} == {"last", "best"}


def test_an_older_checkpoint_is_chosen_by_its_iteration(tmp_path, log):
    folder = tmp_path / "checkpoints"
    for name, epoch in (("epoch_0001", 1), ("epoch_0002", 2), ("best", 2)):
        checkpoint.save(folder / name, {"epoch": epoch, "updates_per_epoch": 5}, lambda folder: None)
    runtime = start()
    assert run_folder.begin(tmp_path, False, runtime, iteration=5) == folder / "epoch_0001"
    assert (
        run_folder.begin(tmp_path, True, runtime) == folder / "epoch_0002"
    )  # the latest one, because there is no `last`
    with pytest.raises(PointDetError, match="no checkpoint of iteration 7; it has those of 5, 10"):
        run_folder.begin(tmp_path, True, runtime, iteration=7)
    with pytest.raises(PointDetError, match="already holds a run"):
        run_folder.begin(tmp_path, False, runtime)
    with pytest.raises(PointDetError, match="no checkpoint to resume in .*none; start without --iter"):
        run_folder.begin(tmp_path / "none", False, runtime, iteration=5)
    run_folder.set_aside_newer(tmp_path, 10, runtime)
    assert "iteration" not in log.text
    run_folder.set_aside_newer(tmp_path, 5, runtime)
    assert f"the checkpoints after iteration 5 are now in {folder / 'set_aside_1'}" in log.text
    assert run_folder.begin(tmp_path, True, runtime) == folder / "epoch_0001"


def test_no_permission(tmp_path, config, log):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        PointDetError, match=r"cannot write to .*file/run \(Not a directory\); choose another"
    ):
        open_folder(tmp_path / "file" / "run", config)
