# SPDX-License-Identifier: Apache-2.0
"""Validation: the evaluated parameters, the files and the journal of a run."""

import json

import numpy as np
import pytest
import tiny
from runs import RecordingJournal, assert_equal, journal, run

from pointdet.data.catalogue import read_dataset
from pointdet.evaluation.run import evaluate
from pointdet.inference.predictor import Predictor
from pointdet.model.restore import restore
from pointdet.training.moving_average import MovingAverage
from pointdet.training.progress import Progress
from pointdet.training.validation import Validation
from pointdet.weights import h5_file


@pytest.mark.parametrize("decay", [0.5, 0.0])
def test_the_average_is_evaluated_if_there_is_one(tmp_path, data, decay):
    model = tiny.model(tiny.config(data, tiny.VALIDATION, "train.save_detections=true"))
    dataset = read_dataset(model.config.dataset, "val", model.class_names)
    parameters = model.detector.parameters()
    average = MovingAverage(parameters, decay, in_blocks=True)
    first = evaluate(Predictor.of(model), dataset, model.runtime.ranks)
    parameters["hm_final/conv/b"].d = parameters["hm_final/conv/b"].d - 1
    second = evaluate(Predictor.of(model), dataset, model.runtime.ranks)
    rows, progress = RecordingJournal(), Progress(4, "coco", epoch=3, step=12)
    values = Validation(model, dataset, average, tmp_path).run(progress, rows, lambda: False)

    scores = [entry["score"] for entry in json.loads((tmp_path / "evaluation/detections.json").read_text())]
    expected = first if decay else second  # the average was not updated: it has the first parameters
    np.testing.assert_allclose(
        sorted(scores), np.sort(np.concatenate([found.scores for found in expected])), rtol=1e-5
    )
    assert sum(len(found) for found in first) == len(scores)
    assert first[0].scores.max() > second[0].scores.max() + 0.01  # else the test could not fail
    metrics = json.loads((tmp_path / "evaluation/metrics.json").read_text())["metrics"]
    assert rows.records == [(3, 12, {"AP": metrics["AP"], "AP50": metrics["AP50"]})]
    assert values == {"ap": metrics["AP"]}


def test_validation_does_not_change_the_training(tmp_path, data):
    settings = ("train.ema_decay=0.5", "train.num_epochs=3", "train.save_intervals=2")
    plain = tiny.model(tiny.config(data, *settings))
    run(tmp_path / "plain", plain)
    model = tiny.model(tiny.config(data, *settings, tiny.VALIDATION, "train.val_intervals=2"))
    run(tmp_path / "run", model)
    assert_equal(tiny.parameters(model), tiny.parameters(plain))

    rows = journal(tmp_path / "run")
    assert [(row["epoch"], row["step"]) for row in rows if row["AP"]] == [("2", "8"), ("3", "12")]
    assert all(0 <= float(row["AP"]) <= float(row["AP50"]) <= 1 for row in rows if row["AP"])
    assert [row["step"] for row in rows if row["total"]] == [str(step) for step in range(1, 13)]
    metrics = json.loads((tmp_path / "run" / "evaluation" / "metrics.json").read_text())
    assert metrics["images"] == 4 and metrics["dataset"] == "shapes_val"
    assert not (tmp_path / "run" / "evaluation" / "detections.json").exists()  # only with save_detections
    folder = tmp_path / "run" / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {"last", "best", "epoch_0002"}
    assert not (tmp_path / "plain" / "checkpoints" / "best").exists()

    # The moving average is restored. It differs from the last parameters.
    restored = tiny.parameters(restore(folder / "last", model.runtime))
    assert_equal(restored, h5_file.read(folder / "last" / "ema.h5"))
    assert_equal(tiny.parameters(model), h5_file.read(folder / "last" / "parameters.h5"))
    assert (restored["conv1/conv/W"] != tiny.parameters(model)["conv1/conv/W"]).any()
