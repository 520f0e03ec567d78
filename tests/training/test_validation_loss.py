# SPDX-License-Identifier: Apache-2.0
"""The validation loss, and the checkpoint `best` by it."""

import json

import numpy as np
import pytest
import tiny
from runs import assert_equal, column, journal, run

from pointdet.data.catalogue import read_dataset
from pointdet.data.images import read_image
from pointdet.geometry import View
from pointdet.stop_request import Stopped
from pointdet.structures import Annotation
from pointdet.training import validation_loss
from pointdet.training.progress import LOSS, Progress
from pointdet.training.validation_loss import ValidationLoss
from pointdet.weights import checkpoint, h5_file


def masked_l1(predicted, target):
    return np.abs(predicted - target).sum() / (2 * len(target) + 1e-4)


def reference(model, record):
    """The loss terms of one image, from the maps of the inference network and in NumPy (Zhou et al., 2019)."""
    config, codec = model.config, model.detector.codec
    view = View.fit(record.height, record.width, config.input.height, config.input.width, 1.0)
    image = view.warp(read_image(record.image_path, record.height, record.width))
    maps = {name: array[0].astype(np.float64) for name, array in model.network()(image[None]).items()}
    a = record.annotation
    targets = {name: np.empty(shape, np.float32) for name, shape in codec.target_shapes().items()}
    codec.encode(Annotation(view.boxes_to_input(a.boxes), a.labels, a.ignore, a.areas), targets)
    p, y = maps["heatmap"], targets["heatmap"].astype(np.float64)
    positive = y == 1
    focal = ((1 - p) ** 2 * np.log(p))[positive].sum()
    focal += ((1 - y) ** 4 * p**2 * np.log(1 - p))[~positive].sum()
    rows = targets["mask"] > 0
    ys, xs = np.divmod(targets["index"][rows].astype(int), p.shape[2])
    terms = {"heatmap": -focal / max(positive.sum(), 1)}
    for name in ("size", "offset"):
        terms[name] = masked_l1(maps[name][:, ys, xs].T, targets[name][rows])
    return terms | {"total": terms["heatmap"] + 0.1 * terms["size"] + terms["offset"]}


def test_equals_a_computation_in_numpy(data):
    """With one image per batch the loss is the mean over the images."""
    model = tiny.model(tiny.config(data, tiny.VALIDATION, "train.batch_size=1"))
    dataset = read_dataset(model.config.dataset, "val", model.class_names)
    before = tiny.parameters(model)
    found = ValidationLoss(model, dataset).measure(lambda: False)
    expected = [reference(model, record) for record in dataset.records]
    for name, value in found.items():
        assert value == pytest.approx(np.mean([terms[name] for terms in expected]), rel=1e-4), name
    assert_equal(tiny.parameters(model), before)  # also the running statistics


def test_a_last_batch_that_is_not_full_counts_by_its_images(data):
    """Four images in batches of three: weights 3 and 1."""
    model = tiny.model(tiny.config(data, tiny.VALIDATION, "train.batch_size=3"))
    dataset = read_dataset(model.config.dataset, "val", model.class_names)
    loss = ValidationLoss(model, dataset)
    found = loss.measure(lambda: False)
    batches = []
    with loss._loader() as loader:
        for batch in loader.epoch(0):
            batches.append(
                (batch["weight"].sum(), loss._graph.forward(batch, model.detector.loss.count(batch)).data)
            )
    assert [weight for weight, _ in batches] == [3, 1]
    np.testing.assert_allclose(list(found.values()), (3 * batches[0][1] + batches[1][1]) / 4, rtol=1e-5)


def test_stopped(data):
    model = tiny.model(tiny.config(data, tiny.VALIDATION))
    with pytest.raises(Stopped):
        ValidationLoss(model, read_dataset(model.config.dataset, "val", model.class_names)).measure(
            lambda: True
        )


@pytest.mark.parametrize("detector", ["ctdet", "cornernet", "triplet"])
def test_best_by_loss(tmp_path, data, monkeypatch, detector):
    """The second of three validations has the lowest loss. AP is not measured."""
    losses = iter([3.0, 1.0, 2.0])
    measure = ValidationLoss.measure

    def scripted(self, stop):
        return measure(self, stop) | {"total": next(losses)}

    monkeypatch.setattr(validation_loss.ValidationLoss, "measure", scripted)
    settings = (
        "train.num_epochs=3",
        "train.val_intervals=1",
        "train.save_intervals=1",
        f"detector.name={detector}",
    )
    model = tiny.model(tiny.config(data, tiny.VALIDATION, *settings, "train.validation=[loss]"))
    run(tmp_path / "run", model)
    assert column(tmp_path / "run", "validation_total") == [3, 1, 2]
    assert len(column(tmp_path / "run", "validation_heatmap")) == 3
    assert not column(tmp_path / "run", "AP") and not (tmp_path / "run" / "evaluation").exists()
    folder = tmp_path / "run" / "checkpoints"
    best, last = (checkpoint.read_state(folder / name) for name in ("best", "last"))
    assert (best["epoch"], best["best_loss"], last["best_loss"], last["best_ap"]) == (2, 1, 1, -1)
    assert (folder / "best" / "parameters.h5").samefile(folder / "epoch_0002" / "parameters.h5")


def test_both_beside_each_other(tmp_path, data):
    """One row of the journal; `best` by AP, the first one. The training is not changed."""
    settings = ("train.num_epochs=1", "train.ema_decay=0.5")
    plain = tiny.model(tiny.config(data, *settings))
    run(tmp_path / "plain", plain)
    model = tiny.model(tiny.config(data, *settings, tiny.VALIDATION, "train.validation=[ap, loss]"))
    run(tmp_path / "run", model)
    assert_equal(tiny.parameters(model), tiny.parameters(plain))
    (row,) = (row for row in journal(tmp_path / "run") if row["AP"])
    assert float(row["validation_total"]) > 0 and row["step"] == "4"
    metrics = json.loads((tmp_path / "run" / "evaluation" / "metrics.json").read_text())["metrics"]
    best = checkpoint.read_state(tmp_path / "run" / "checkpoints" / "best")
    assert best["best_ap"] == metrics["AP"] == float(row["AP"])

    # The moving average is measured.
    given = {name: model.detector.parameters()[name] for name in tiny.parameters(model)}
    for name, array in h5_file.read(tmp_path / "run" / "checkpoints" / "best" / "ema.h5").items():
        given[name].d = array
    dataset = read_dataset(model.config.dataset, "val", model.class_names)
    again = ValidationLoss(model, dataset).measure(lambda: False)
    assert float(row["validation_total"]) == pytest.approx(again["total"], rel=1e-5)


def test_another_metric_of_best(tmp_path, data, caplog, monkeypatch):
    import logging

    monkeypatch.setattr(logging.getLogger("pointdet"), "propagate", True)
    settings = ("train.num_epochs=1", tiny.VALIDATION)
    run(tmp_path / "run", tiny.model(tiny.config(data, *settings)))
    longer = ("train.num_epochs=2", "train.validation=[loss, ap]")
    run(tmp_path / "run", tiny.model(tiny.config(data, *settings, *longer)), resume=True)
    assert "the metric of `best` was coco and is loss: it is counted anew" in caplog.text
    assert checkpoint.read_state(tmp_path / "run" / "checkpoints" / "best")["best_loss"] > 0


def test_improves():
    loss, ap = Progress(3, LOSS), Progress(3, "coco")
    assert loss.improves(5.0) and ap.improves(0.0)
    assert not any(progress.improves(value) for progress in (loss, ap) for value in (-1.0, float("nan")))
    loss.best = ap.best = 0.5
    assert loss.improves(0.4) and not loss.improves(0.5) and not loss.improves(0.6)
    assert ap.improves(0.6) and not ap.improves(0.5) and not ap.improves(0.4)
