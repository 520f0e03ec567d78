# SPDX-License-Identifier: Apache-2.0
"""Permanent checkpoints every train.snapshot steps."""

import os
import signal

import pytest
import tiny
from runs import assert_equal, run

from pointdet.weights import checkpoint, h5_file


def steps(folder):
    """The iteration of every snapshot, by its name."""
    found = sorted((folder / "checkpoints").glob("step_*"))
    return {path.name: checkpoint.iteration(checkpoint.read_state(path)) for path in found}


def test_snapshots_within_epochs_and_at_their_ends(tmp_path, data):
    """An epoch has four steps."""
    settings = ("train.ema_decay=0.5", "train.snapshot=2", "train.save_intervals=1", "train.num_epochs=2")
    run(tmp_path / "run", tiny.model(tiny.config(data, *settings, tiny.VALIDATION)))
    assert steps(tmp_path / "run") == {f"step_{n:07d}": n for n in (2, 4, 6, 8)}
    folder = tmp_path / "run" / "checkpoints"
    for epoch, step in (("epoch_0001", "step_0000004"), ("epoch_0002", "step_0000008")):
        assert (folder / epoch / "parameters.h5").samefile(folder / step / "parameters.h5")

    # The third step of a run that ends there.
    run(tmp_path / "other", tiny.model(tiny.config(data, *settings, "train.snapshot=3")), stop_at(3))
    assert steps(tmp_path / "other") == {"step_0000003": 3}


def stop_at(step):
    def before(number, batch):
        if number == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    return before


def test_a_snapshot_has_the_parameters_of_its_step(tmp_path, data):
    settings = ("train.num_epochs=2", "train.save_solver=all")
    run(tmp_path / "run", tiny.model(tiny.config(data, *settings, "train.snapshot=3")))
    run(tmp_path / "stopped", tiny.model(tiny.config(data, *settings)), stop_at(6))
    found, expected = (
        h5_file.read(tmp_path / folder / "parameters.h5")
        for folder in ("run/checkpoints/step_0000006", "stopped/checkpoints/last")
    )
    assert_equal(found, expected)


@pytest.mark.parametrize("most", [0, 2])
def test_old_snapshots_are_removed(tmp_path, data, most):
    settings = ("train.num_epochs=2", "train.snapshot=1", f"train.keep_checkpoints={most}")
    run(tmp_path / "run", tiny.model(tiny.config(data, *settings)))
    assert list(steps(tmp_path / "run").values()) == ([7, 8] if most else list(range(1, 9)))


def test_a_snapshot_that_a_killed_run_missed(tmp_path, data):
    """`last` is written before the snapshot is made from it."""
    model = tiny.model(tiny.config(data, "train.num_epochs=2"))
    run(tmp_path / "run", model, stop_at(3))
    run(
        tmp_path / "run", tiny.model(tiny.config(data, "train.num_epochs=2", "train.snapshot=3")), resume=True
    )
    assert steps(tmp_path / "run") == {"step_0000003": 3, "step_0000006": 6}
