# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of a run: the saved state, when one is due, and which training may continue from them."""

import errno
import logging
import os
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
from runs import assert_equal, run

from pointdet.errors import PointDetError
from pointdet.training import run_checkpoints
from pointdet.training.changed_settings import same_place
from pointdet.training.moving_average import MovingAverage
from pointdet.training.progress import Progress
from pointdet.training.run_checkpoints import RunCheckpoints
from pointdet.training.solver import Solver
from pointdet.weights import checkpoint, fit, h5_file

HALF = "mixed_precision.mixed_precision=true"


@pytest.fixture
def log(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("pointdet"), "propagate", True)
    caplog.set_level(logging.INFO, "pointdet")
    return caplog


class Training:
    """Everything that a checkpoint contains."""

    def __init__(self, folder, model, progress=None):
        config = model.config
        self.model, self.parameters = model, model.detector.parameters()
        self.solver = Solver(config.train, config.mixed_precision, self.parameters)
        self.average = MovingAverage(self.parameters, config.train.ema_decay, in_blocks=True)
        self.progress = progress or Progress(4, config.dataset.metric)
        self.checkpoints = RunCheckpoints(folder, model, self.solver, self.average)

    def random_gradients(self, seed):
        rng, trainable = np.random.default_rng(seed), self.model.detector.parameters(trainable_only=True)
        return {name: rng.standard_normal(v.shape, np.float32) for name, v in trainable.items()}

    def update_with(self, gradients):
        scale = np.float32(self.solver.loss_scale.value)  # a power of two, so that no bit changes
        self.solver.begin()
        for name, gradient in gradients.items():
            self.parameters[name].g = gradient * scale
        assert self.solver.update(1e-3)
        self.average.update()

    def update(self, seed):
        self.update_with(self.random_gradients(seed))

    def averages(self):
        return self.average.values()

    def arrays(self):
        return tiny.parameters(self.model) | {f"average/{n}": a for n, a in self.averages().items()}


@pytest.mark.parametrize("decay", [0, 0.5])
def test_saved_and_loaded(tmp_path, data, decay):
    """The next update after loading equals that of the uninterrupted training."""
    config = tiny.config(data, f"train.ema_decay={decay}", HALF)
    whole = Training(tmp_path, tiny.model(config), Progress(4, "coco", epoch=2, update=1, step=9, best=0.25))
    whole.update(0)
    whole.solver.loss_scale.update(overflow=True)
    whole.checkpoints.save_last(whole.progress)
    files = {"parameters.h5", "solver.h5", "state.json"} | ({"ema.h5"} if decay else set())
    assert {path.name for path in (tmp_path / "last").iterdir()} == files
    state = checkpoint.read_state(tmp_path / "last")
    assert state["weights"] == ("ema.h5" if decay else "parameters.h5") and state["ranks"] == 1

    resumed = Training(
        tmp_path, tiny.model(tiny.config(data, f"train.ema_decay={decay}", HALF, "train.seed=1"))
    )
    resumed.checkpoints.load(tmp_path / "last", resumed.progress)
    assert resumed.progress == whole.progress
    assert resumed.solver.loss_scale.state() == whole.solver.loss_scale.state()
    for training in (whole, resumed):
        training.update(1)
    assert_equal(resumed.arrays(), whole.arrays())


def test_the_best_ap_of_another_metric_is_not_loaded(tmp_path, data, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("pointdet"), "propagate", True)
    first = Training(tmp_path, tiny.model(tiny.config(data)), Progress(4, "coco", epoch=1, best=0.25))
    first.checkpoints.save_last(first.progress)
    other = Progress(4, "voc07")
    first.checkpoints.load(tmp_path / "last", other)
    assert (other.epoch, other.best) == (1, -1)
    assert "the metric of `best` was coco and is voc07: it is counted anew" in caplog.text


NHWC = "mixed_precision.channel_last=true"


@pytest.mark.parametrize(
    ("before", "after"),
    [((), (NHWC,)), ((NHWC,), ()), ((), (HALF,)), ((HALF,), ()), ((HALF,), (HALF, NHWC))],
    ids=["NCHW to NHWC", "NHWC to NCHW", "float to half", "half to float", "half NCHW to half NHWC"],
)
def test_layout_and_precision_may_change(tmp_path, data, before, after):
    """Parameters, averages and moments are converted. In half precision an image has a fourth channel, of zeros."""
    decay = "train.ema_decay=0.5"
    whole = Training(tmp_path, tiny.model(tiny.config(data, decay, *before)))
    for seed in (0, 1):
        whole.update(seed)
    whole.solver.loss_scale.update(overflow=True)
    whole.checkpoints.save_last(whole.progress)
    resumed = Training(tmp_path, tiny.model(tiny.config(data, decay, *after, "train.seed=1")))
    initial_scale = resumed.solver.loss_scale.state()
    resumed.checkpoints.load(tmp_path / "last", resumed.progress)
    scale = whole.solver.loss_scale.state() if HALF in before and HALF in after else initial_scale
    assert resumed.solver.loss_scale.state() == scale

    detector = resumed.model.detector

    def converted(arrays):
        arrays = fit.converted(arrays, detector.channel_last)
        return fit.with_input_channels(arrays, detector.image_channels, detector.channel_last)

    gradients = whole.random_gradients(2)
    whole.update_with(gradients)
    resumed.update_with(converted(gradients))
    assert_equal(tiny.parameters(resumed.model), converted(tiny.parameters(whole.model)))
    assert_equal(resumed.averages(), converted(whole.averages()))


def test_the_moving_average_may_be_switched_on_or_off(tmp_path, data, log):
    with_average = Training(tmp_path, tiny.model(tiny.config(data, "train.ema_decay=0.9")))
    with_average.update(0)
    with_average.checkpoints.save_last(with_average.progress)
    without = Training(tmp_path, tiny.model(tiny.config(data, "train.seed=1")))
    without.checkpoints.load(tmp_path / "last", without.progress)
    assert_equal(tiny.parameters(without.model), tiny.parameters(with_average.model))
    assert "train.ema_decay is 0: the moving average" in log.text

    without.update(1)
    without.checkpoints.save_last(without.progress)
    with_average.checkpoints.load(tmp_path / "last", with_average.progress)
    assert_equal(with_average.averages(), tiny.parameters(without.model))  # it starts with the parameters
    assert "has no moving average: it starts with the parameters" in log.text


@pytest.mark.parametrize("factor", [2, 0.5])
def test_the_loss_scale_that_is_configured_anew_wins(tmp_path, data, factor):
    whole = Training(tmp_path, tiny.model(tiny.config(data, HALF, "mixed_precision.loss_scaling=1024")))
    whole.solver.loss_scale.update(overflow=True)
    whole.checkpoints.save_last(whole.progress)
    other = f"mixed_precision.loss_scaling={int(1024 * factor)}"
    resumed = Training(tmp_path, tiny.model(tiny.config(data, HALF, other)))
    resumed.checkpoints.load(tmp_path / "last", resumed.progress)
    assert resumed.solver.loss_scale.value == 1024 * factor
    assert resumed.solver.loss_scale.skipped_steps == 1


@pytest.mark.parametrize(
    ("batch_size", "updates_per_epoch", "update"), [(4, 5, 2), (1, 20, 10), (2, 10, 5), (8, 3, 1), (20, 1, 0)]
)
def test_another_batch_size_continues_after_the_same_images(
    tmp_path, data, log, batch_size, updates_per_epoch, update
):
    whole = Training(
        tmp_path, tiny.model(tiny.config(data)), Progress(10, "coco", epoch=3, update=5, step=35)
    )
    whole.checkpoints.save_last(whole.progress)  # 10 images of 20
    config = tiny.config(data, f"train.batch_size={batch_size}")
    resumed = Training(tmp_path, tiny.model(config), Progress(updates_per_epoch, "coco"))
    resumed.checkpoints.load(tmp_path / "last", resumed.progress)
    assert (resumed.progress.epoch, resumed.progress.update, resumed.progress.step) == (3, update, 35)
    sentence = (
        f"the checkpoint has 10 steps of 2 images per epoch (1 ranks), this run {updates_per_epoch} of {batch_size} "
        f"(1 ranks): it continues after step {update} of epoch 4"
    )
    assert (sentence in log.text) == (batch_size != 2)
    assert (f"changed since the checkpoint: train.batch_size: 2 -> {batch_size}" in log.text) == (
        batch_size != 2
    )


def test_the_end_of_an_epoch_stays_its_end():
    assert same_place(10, (10, 2), (3, 7)) == 3
    assert same_place(9, (10, 2), (3, 7)) == 2  # 18 images are 2 updates of 7
    assert same_place(9, (10, 2), (1, 32)) == 0


def test_keys_that_changed_are_logged(tmp_path, data, log):
    first = Training(tmp_path, tiny.model(tiny.config(data)))
    first.checkpoints.save_last(first.progress)
    config = tiny.config(data, "train.num_epochs=30", "train.learning_rate.scheduler_type=step")
    other = Training(tmp_path, tiny.model(config))
    other.checkpoints.load(tmp_path / "last", other.progress)
    changed = [line for line in log.messages if line.startswith("changed since the checkpoint: ")]
    assert [line.removeprefix("changed since the checkpoint: ") for line in changed] == [
        "train.num_epochs: 2 -> 30",
        "train.learning_rate.scheduler_type: cosine -> step",
    ]


def test_a_checkpoint_is_due_after_the_minutes(tmp_path, data, monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(run_checkpoints.time, "monotonic", lambda: clock.now)
    training = Training(tmp_path, tiny.model(tiny.config(data)))
    clock.now += 119
    assert not training.checkpoints.is_due(2)
    clock.now += 1
    assert training.checkpoints.is_due(2) and not training.checkpoints.is_due(0)
    training.checkpoints.save_last(training.progress)
    assert not training.checkpoints.is_due(2)


def test_other_ranks_write_no_file(tmp_path, data):
    model = tiny.model(tiny.config(data))
    ranks = SimpleNamespace(rank=1, size=2, gather=lambda value: None, broadcast=lambda value: (None,))
    training = Training(tmp_path, replace(model, runtime=replace(model.runtime, ranks=ranks)))
    training.checkpoints.save_last(training.progress)
    training.checkpoints.copy_last("best", training.progress)
    training.checkpoints.update_last(training.progress)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("save_solver", ["last", "all"])
def test_copies_of_last_are_hard_links(tmp_path, data, save_solver):
    """They need no space. The solver's state, the largest part, is in `last` only, unless all are to have it."""
    config = tiny.config(data, "train.ema_decay=0.5", f"train.save_solver={save_solver}")
    training = Training(tmp_path, tiny.model(config))
    training.update(0)
    training.checkpoints.save_last(training.progress)
    training.progress.best = 0.25
    training.checkpoints.copy_last("best", training.progress)
    files = {"parameters.h5", "ema.h5"} | ({"solver.h5"} if save_solver == "all" else set())
    assert {path.name for path in (tmp_path / "best").iterdir()} == files | {"state.json"}
    for name in files:
        assert (tmp_path / "best" / name).samefile(tmp_path / "last" / name)
    assert checkpoint.read_state(tmp_path / "best")["best_ap"] == 0.25
    assert checkpoint.read_state(tmp_path / "last")["best_ap"] == -1  # state.json is not shared

    before = h5_file.read(tmp_path / "best" / "parameters.h5")
    training.update(1)
    training.checkpoints.save_last(training.progress)
    assert_equal(h5_file.read(tmp_path / "best" / "parameters.h5"), before)
    if save_solver == "last":
        with pytest.raises(PointDetError, match="best has no state of the solver; .*train.save_solver=all"):
            training.checkpoints.load(tmp_path / "best", training.progress)
    else:
        training.checkpoints.load(tmp_path / "best", training.progress)


def test_a_file_system_without_hard_links(tmp_path, data, monkeypatch):
    def refuse(source, target):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    training = Training(tmp_path, tiny.model(tiny.config(data)))
    training.checkpoints.save_last(training.progress)
    training.checkpoints.copy_last("best", training.progress)
    assert_equal(*(h5_file.read(tmp_path / name / "parameters.h5") for name in ("best", "last")))


def test_old_checkpoints_are_removed(tmp_path, data):
    config = tiny.config(data, "train.save_intervals=2", "train.keep_checkpoints=2")
    training = Training(tmp_path, tiny.model(config))
    for epoch in range(1, 13):
        training.progress.epoch, training.progress.step = epoch, 4 * epoch
        training.checkpoints.save_last(training.progress)
        for _ in range(2):  # the second call has no effect
            training.checkpoints.keep(training.progress)
    assert {path.name for path in tmp_path.iterdir()} == {"last", "epoch_0010", "epoch_0012"}


def test_an_epoch_is_not_made_from_a_later_checkpoint(tmp_path, data):
    """A run that continues from an older checkpoint still has a `last` of later."""
    training = Training(tmp_path, tiny.model(tiny.config(data, "train.save_intervals=2")))
    training.progress.epoch, training.progress.step = 3, 12
    training.checkpoints.save_last(training.progress)
    training.progress.epoch, training.progress.step = 2, 8
    training.checkpoints.keep(training.progress)
    assert {path.name for path in tmp_path.iterdir()} == {"last"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda config: config.clear(), "the key dataset is missing"),
        (lambda config: config.pop("dataset"), "the key dataset is missing"),
        (lambda config: config.update(train=3), "train: "),
        (lambda config: config["train"].update(seed={"a": [1]}), r"train\.seed: "),
        (lambda config: config["train"].update(sed=1), r"unknown key train\.sed; did you mean seed\?"),
        (lambda config: config["dataset"].pop("format"), r"the key dataset\.format is missing"),
        (
            lambda config: config["mixed_precision"].update(mixed_precision="x"),
            r"mixed_precision\.mixed_precision: ",
        ),
    ],
)
def test_a_configuration_that_is_none_is_an_error(tmp_path, data, change, words):
    training = Training(tmp_path, tiny.model(tiny.config(data)))
    training.checkpoints.save_last(training.progress)
    state = checkpoint.read_state(tmp_path / "last")
    change(state["config"])
    checkpoint.write_state(tmp_path / "last", state)
    words = f"last/state.json: .*{words}"
    assert re.search(words, checkpoint.fault(tmp_path / "last"))
    with pytest.raises(PointDetError, match=words):
        training.checkpoints.load(tmp_path / "last", training.progress)


def test_a_checkpoint_of_another_training_is_an_error(tmp_path, data):
    run(tmp_path / "run", tiny.model(tiny.config(data, "train.num_epochs=1")))
    cases = [
        ((), (*tiny.CLASS_NAMES[1:], "circle"), "trained for other classes than those of the data"),
        (("model.width=0.25",), tiny.CLASS_NAMES, "parameters.h5 does not fit this network"),
    ]
    for overrides, class_names, words in cases:
        with pytest.raises(PointDetError, match=words):
            run(tmp_path / "run", tiny.model(tiny.config(data, *overrides), class_names), resume=True)
