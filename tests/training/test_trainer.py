# SPDX-License-Identifier: Apache-2.0
"""Training runs: overflow, divergence, the best checkpoint, signals."""

import logging
import os
import re
import signal
from dataclasses import replace

import numpy as np
import pytest
import tiny
from runs import assert_equal, column, journal, run

from pointdet.errors import PointDetError
from pointdet.inference.predictor import Predictor
from pointdet.weights import checkpoint, h5_file

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
HALF = ("input.height=32", "input.width=32", "model.width=0.03", "mixed_precision.mixed_precision=true")


def test_an_overflow_skips_one_step(tmp_path, data):
    """Parameters, moments and running statistics do not change; the run continues."""
    model = tiny.model(
        tiny.config(
            data,
            *HALF,
            "train.num_epochs=1",
            "mixed_precision.loss_scaling=16",
            "mixed_precision.loss_scaling_interval=2",
        )
    )
    before = []

    def poison(step, batch):
        before.append(tiny.parameters(model))
        if step == 1:
            batch["colour"] *= 1e6  # above the range of half

    assert run(tmp_path / "run", model, poison)
    assert_equal(before[2], before[1])  # including the running statistics
    for earlier, later in ((0, 1), (2, 3)):
        assert any((before[later][name] != array).any() for name, array in before[earlier].items())
    assert column(tmp_path / "run", "skipped_steps") == [0, 1, 1, 1]
    assert column(tmp_path / "run", "loss_scale") == [16, 8, 8, 16]
    totals = column(tmp_path / "run", "total")
    assert np.isnan(totals[1]) and np.isfinite([totals[0], *totals[2:]]).all()
    last = tmp_path / "run" / "checkpoints" / "last"
    assert all(np.isfinite(array).all() for array in h5_file.read(last / "parameters.h5").values())


def test_half_goes_on_where_it_stood(tmp_path, data):
    """Bit for bit; every change of the loss scale after the stop depends on counters from before it."""
    scale = ("mixed_precision.loss_scaling=16", "mixed_precision.loss_scaling_interval=4")
    config = tiny.config(data, *HALF, *scale)

    def overflow(step, batch):
        if step in (1, 6):
            batch["colour"] *= 1e6

    def overflow_and_stop(step, batch):
        overflow(step, batch)
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    assert run(tmp_path / "whole", tiny.model(config), overflow)
    assert column(tmp_path / "whole", "loss_scale") == [16, 8, 8, 8, 8, 16, 8, 8]
    assert column(tmp_path / "whole", "skipped_steps") == [0, 1, 1, 1, 1, 1, 2, 2]
    assert not run(tmp_path / "run", tiny.model(config), overflow_and_stop)
    last = tmp_path / "run" / "checkpoints" / "last"
    assert checkpoint.read_state(last)["loss_scale"] == {
        "value": 8.0,
        "good_steps": 3,
        "skipped_steps": 1,
        "skips_in_a_row": 0,
    }
    assert run(tmp_path / "run", tiny.model(config), overflow, resume=True)
    for name in ("total", "loss_scale", "skipped_steps"):
        np.testing.assert_array_equal(column(tmp_path / "run", name), column(tmp_path / "whole", name))
    for file in ("parameters.h5", "solver.h5"):
        found, expected = (
            h5_file.read(tmp_path / f / "checkpoints" / "last" / file) for f in ("run", "whole")
        )
        assert_equal(found, expected)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, data):
    model = tiny.model(tiny.config(data, "train.num_epochs=3"))

    def poison(step, batch):
        if step == 6:
            model.detector.parameters()["hm_final/conv/b"].d = np.nan

    with pytest.raises(PointDetError) as raised:
        run(tmp_path / "run", model, poison)
    sentence = str(raised.value)
    assert sentence.startswith("the loss is not finite at epoch 2, step 3 (lr 0.0005; heatmap nan, size ")
    assert "total nan" in sentence and "lower train.learning_rate.base_lr" in sentence
    assert [row["step"] for row in journal(tmp_path / "run")] == list("123456")
    arrays = h5_file.read(tmp_path / "run" / "checkpoints" / "last" / "parameters.h5")
    assert all(np.isfinite(array).all() for array in arrays.values())  # saved after the first epoch


@pytest.mark.parametrize("kernels", ["blas", "nnabla"])
def test_a_learning_rate_that_is_far_too_high_ends_the_run(tmp_path, data, kernels):
    model = tiny.model(tiny.config(data, "train.num_epochs=20", "train.learning_rate.base_lr=1.0e+30"))
    model = replace(model, runtime=replace(model.runtime, cpu_kernels=kernels))
    with pytest.raises(PointDetError, match="is not finite at epoch 1, step 2 .*; lower"):
        run(tmp_path / "run", model)


def test_a_statistic_that_is_not_finite_ends_the_run(tmp_path, data):
    """The loss is still finite: training does not use the running variance, and it stays infinite."""
    model = tiny.model(tiny.config(data, "train.num_epochs=3", "train.log_intervals=3"))

    def poison(step, batch):
        if step == 5:
            model.detector.parameters()["conv1/bn/var"].d = np.inf

    with pytest.raises(PointDetError) as raised:
        run(tmp_path / "run", model, poison)
    sentence = str(raised.value)
    assert sentence.startswith("conv1/bn/var is not finite at epoch 2, step 3 (lr ")
    assert "nan" not in sentence and "lower train.learning_rate.base_lr" in sentence
    assert [row["step"] for row in journal(tmp_path / "run")] == ["3", "4"]
    last = tmp_path / "run" / "checkpoints" / "last"
    assert all(np.isfinite(array).all() for array in h5_file.read(last / "parameters.h5").values())


def test_best_is_the_best(tmp_path, data, monkeypatch):
    """Equal is not better; the number survives a resumption."""
    scores = iter([0.3, 0.5, 0.5, 0.4, 0.6])
    monkeypatch.setattr(
        "pointdet.training.validation.measure", lambda *_: {"AP": next(scores), "AP50": 0.9, **NO_CLASS}
    )
    settings = ("train.val_intervals=1", tiny.VALIDATION)
    run(tmp_path / "run", tiny.model(tiny.config(data, *settings, "train.num_epochs=3")))
    best = tmp_path / "run" / "checkpoints" / "best"
    assert (checkpoint.read_state(best)["best_ap"], checkpoint.read_state(best)["epoch"]) == (0.5, 2)
    run(
        tmp_path / "run",
        tiny.model(tiny.config(data, *settings, "train.num_epochs=4")),
        resume=True,
    )
    assert checkpoint.read_state(best)["epoch"] == 2
    run(
        tmp_path / "run",
        tiny.model(tiny.config(data, *settings, "train.num_epochs=5")),
        resume=True,
    )
    assert checkpoint.read_state(best)["epoch"] == 5
    assert column(tmp_path / "run", "AP") == [0.3, 0.5, 0.5, 0.4, 0.6]


NO_CLASS = {f"AP/{name}": float("nan") for name in tiny.CLASS_NAMES}


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_run_after_the_step(tmp_path, data, number):
    def signalled(step, batch):
        if step == 5:
            os.kill(os.getpid(), number)

    handlers = [signal.getsignal(n) for n in SIGNALS]
    model = tiny.model(tiny.config(data))
    assert not run(tmp_path / "run", model, signalled)
    assert [signal.getsignal(n) for n in SIGNALS] == handlers
    last = tmp_path / "run" / "checkpoints" / "last"
    state = checkpoint.read_state(last)
    assert (state["epoch"], state["update"]) == (1, 2)
    assert_equal(h5_file.read(last / "parameters.h5"), tiny.parameters(model))
    assert run(tmp_path / "run", tiny.model(tiny.config(data)), resume=True)
    assert [row["step"] for row in journal(tmp_path / "run")] == list("12345678")


def test_a_signal_in_the_last_step_of_an_epoch(tmp_path, data):
    """The epoch is not validated before the run ends. The resumed run validates it."""

    def signalled(step, batch):
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    config = tiny.config(data, tiny.VALIDATION, "train.val_intervals=1")
    assert not run(tmp_path / "run", tiny.model(config), signalled)
    assert not column(tmp_path / "run", "AP")
    assert run(tmp_path / "run", tiny.model(config), resume=True)
    assert [row["step"] for row in journal(tmp_path / "run") if row["AP"]] == ["4", "8"]
    assert [row["step"] for row in journal(tmp_path / "run") if row["total"]] == list("12345678")


VALIDATED = (tiny.VALIDATION, "train.val_intervals=1", "test.batch_size=1")


def test_a_signal_during_the_validation(tmp_path, data, monkeypatch):
    """The epoch is saved before it. The validation stops after the next image; the resumed run validates."""
    detect, images = Predictor.detect, []

    def signalled(self, prepared):
        images.append(prepared)
        if len(images) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return detect(self, prepared)

    config = tiny.config(data, *VALIDATED, "train.num_epochs=1")
    monkeypatch.setattr(Predictor, "detect", signalled)
    model = tiny.model(config)
    assert not run(tmp_path / "run", model)
    assert len(images) == 2  # of four
    folder = tmp_path / "run" / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {"last"}
    assert_equal(h5_file.read(folder / "last" / "parameters.h5"), tiny.parameters(model))
    state = checkpoint.read_state(folder / "last")
    assert (state["epoch"], state["update"], state["validation_due"]) == (1, 0, True)

    resumed = tiny.model(config)
    assert run(tmp_path / "run", resumed, resume=True)
    assert [row["step"] for row in journal(tmp_path / "run") if row["AP"]] == ["4"]
    assert len(images) == 2 + 4
    assert {path.name for path in folder.iterdir()} == {"last", "best"}
    assert not checkpoint.read_state(folder / "last")["validation_due"]
    assert_equal(h5_file.read(folder / "best" / "parameters.h5"), tiny.parameters(model))


def no_space(*_):
    raise PointDetError("cannot write metrics.json (No space left on device)")


@pytest.mark.parametrize("after", ["stop", "continue"])
def test_a_validation_that_fails(tmp_path, data, monkeypatch, caplog, after):
    """The trained epoch is whole in both cases."""
    monkeypatch.setattr(logging.getLogger("pointdet"), "propagate", True)
    monkeypatch.setattr("pointdet.training.validation.write_metrics", no_space)
    config = tiny.config(data, *VALIDATED, f"train.failed_validation={after}")
    model = tiny.model(config)
    last = tmp_path / "run" / "checkpoints" / "last"
    sentence = r"the validation of epoch 1 failed \(cannot write metrics.json \(No space left on device\)\)"
    if after == "stop":
        with pytest.raises(PointDetError, match=f"{sentence}; the epoch is saved: .* --resume"):
            run(tmp_path / "run", model)
        assert checkpoint.read_state(last)["validation_due"]
        monkeypatch.undo()
        assert run(tmp_path / "run", tiny.model(config), resume=True)
        assert [row["step"] for row in journal(tmp_path / "run") if row["AP"]] == ["4", "8"]
    else:
        assert run(tmp_path / "run", model)
        assert re.search(f"{sentence}; the training goes on", caplog.text)
        assert checkpoint.read_state(last)["best_ap"] == -1
    assert (checkpoint.read_state(last)["epoch"], checkpoint.read_state(last)["validation_due"]) == (2, False)
