# SPDX-License-Identifier: Apache-2.0
"""Validation: detect objects in the validation images, compute the AP, write and log the results."""

from __future__ import annotations

import logging
from pathlib import Path

from pointdet.evaluation.metrics import Metrics, measure
from pointdet.evaluation.report import table, write_detections, write_metrics
from pointdet.evaluation.run import evaluate
from pointdet.inference.predictor import Predictor
from pointdet.model.restore import Model
from pointdet.structures import Dataset
from pointdet.training.journal import Journal
from pointdet.training.moving_average import MovingAverage
from pointdet.training.progress import Progress

logger = logging.getLogger("pointdet")

MEANS = ("AP", "AP50")  # metrics in the journal


class Validation:
    """Evaluates the moving average of the parameters, or the parameters themselves if there is no average."""

    def __init__(self, model: Model, dataset: Dataset, average: MovingAverage, folder: Path) -> None:
        """`folder`: the run folder. The results are written to its folder evaluation/."""
        self._predictor = Predictor.of(model)
        self._ranks, self._metric = model.runtime.ranks, model.config.dataset.metric
        self._dataset, self._average, self._folder = dataset, average, folder / "evaluation"

    def run(self, progress: Progress, journal: Journal | None) -> float:
        """Evaluate on all ranks and return the AP. Every rank must call it; rank 0 writes and logs."""
        with self._average.applied():
            detections = evaluate(self._predictor, self._dataset, self._ranks)
        metrics: Metrics | None = None
        if self._ranks.rank == 0:
            metrics = measure(self._dataset, detections, self._metric)
            write_metrics(self._folder / "metrics.json", self._dataset, self._metric, metrics)
            write_detections(self._folder / "detections.json", self._dataset, detections)
            logger.info("epoch %d\n%s", progress.epoch, table(self._dataset, self._metric, metrics))
            if journal is not None:
                means = {name: value for name, value in metrics.items() if name in MEANS}
                journal.write(progress.epoch, progress.step, means)
        return float(self._ranks.broadcast(metrics["AP"] if metrics else None))
