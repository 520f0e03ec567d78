# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of a run: the saved state, when one is due, and which training may continue from them."""

import logging
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
from runs import assert_equal, run

from pointdet.errors import PointDetError
from pointdet.training import run_checkpoints
from pointdet.training.moving_average import MovingAverage
from pointdet.training.progress import Progress
from pointdet.training.run_checkpoints import RunCheckpoints
from pointdet.training.solver import Solver
from pointdet.weights import checkpoint, fit

HALF = "mixed_precision.mixed_precision=true"


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
    whole = Training(tmp_path, tiny.model(config), Progress(4, "coco", epoch=2, update=1, best=0.25))
    whole.update(0)
    whole.solver.loss_scale.update(overflow=True)
    whole.checkpoints.save("last", whole.progress)
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
    first.checkpoints.save("last", first.progress)
    other = Progress(4, "voc07")
    first.checkpoints.load(tmp_path / "last", other)
    assert (other.epoch, other.best) == (1, -1)
    assert "dataset.metric was coco and is voc07: the best AP is counted anew" in caplog.text


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
    whole.checkpoints.save("last", whole.progress)
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


def test_the_moving_average_cannot_be_switched_on_or_off(tmp_path, data):
    with_average = Training(tmp_path, tiny.model(tiny.config(data, "train.ema_decay=0.9")))
    with_average.checkpoints.save("with", with_average.progress)
    without = Training(tmp_path, tiny.model(tiny.config(data)))
    without.checkpoints.save("without", without.progress)
    with pytest.raises(
        PointDetError, match="without was written without train.ema_decay; resume with the same"
    ):
        with_average.checkpoints.load(tmp_path / "without", with_average.progress)
    with pytest.raises(PointDetError, match="with was written with train.ema_decay; resume with the same"):
        without.checkpoints.load(tmp_path / "with", without.progress)


def test_a_checkpoint_is_due_after_the_minutes(tmp_path, data, monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(run_checkpoints.time, "monotonic", lambda: clock.now)
    training = Training(tmp_path, tiny.model(tiny.config(data)))
    clock.now += 119
    assert not training.checkpoints.is_due(2)
    clock.now += 1
    assert training.checkpoints.is_due(2) and not training.checkpoints.is_due(0)
    training.checkpoints.save("last", training.progress)
    assert not training.checkpoints.is_due(2)


def test_other_ranks_write_no_file(tmp_path, data):
    model = tiny.model(tiny.config(data))
    ranks = SimpleNamespace(rank=1, size=2, all_reduce=lambda arrays: None)
    training = Training(tmp_path, replace(model, runtime=replace(model.runtime, ranks=ranks)))
    training.checkpoints.save("last", training.progress)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_training_is_an_error(tmp_path, data):
    run(tmp_path / "run", tiny.model(tiny.config(data, "train.num_epochs=1")))
    cases = [
        (("train.batch_size=4",), tiny.CLASS_NAMES, "counts 4 steps per epoch, this run 2; resume with"),
        (("train.accumulate=2",), tiny.CLASS_NAMES, "counts 4 steps per epoch, this run 2"),
        ((), (*tiny.CLASS_NAMES[1:], "circle"), "trained for other classes than those of the data"),
        (("model.width=0.25",), tiny.CLASS_NAMES, "parameters.h5 does not fit this network"),
    ]
    for overrides, class_names, words in cases:
        with pytest.raises(PointDetError, match=words):
            run(tmp_path / "run", tiny.model(tiny.config(data, *overrides), class_names), resume=True)
