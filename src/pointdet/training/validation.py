# SPDX-License-Identifier: Apache-2.0
"""Validation: detect objects in the validation images, compute the AP, write and log the results."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from pointdet.errors import PointDetError, last_line
from pointdet.evaluation.metrics import measure
from pointdet.evaluation.report import table, write_detections, write_metrics
from pointdet.evaluation.run import evaluate
from pointdet.inference.predictor import Predictor
from pointdet.model.restore import Model
from pointdet.ranks.long_work import from_rank_0
from pointdet.structures import Dataset, Detections
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
        self._settings = model.config.train
        self._dataset, self._average, self._folder = dataset, average, folder / "evaluation"

    def run(self, progress: Progress, journal: Journal | None, stop: Callable[[], bool]) -> float:
        """Evaluate on all ranks and return the AP. Raises Stopped if `stop()` becomes true on any rank.

        Every rank must call it; rank 0 writes and logs. Errors: PointDetError if the results cannot be
        computed or written; with train.failed_validation `continue` it is logged and the AP is -1.
        """
        with self._average.applied():
            detections = evaluate(self._predictor, self._dataset, self._ranks, stop)
        ap, fault = from_rank_0(self._ranks, lambda: self._outcome(detections, progress, journal))
        if fault:
            sentence = f"the validation of epoch {progress.epoch} failed ({fault})"
            if self._settings.failed_validation == "stop":
                raise PointDetError(
                    f"{sentence}; the epoch is saved: correct the cause and continue with --resume"
                )
            logger.warning("%s; the training goes on", sentence)
        return ap

    def _outcome(
        self, detections: list[Detections], progress: Progress, journal: Journal | None
    ) -> tuple[float, str]:
        """The AP, and what prevented it from being computed or written, if anything."""
        try:
            return self._measure(detections, progress, journal), ""
        except (PointDetError, OSError) as error:
            return -1.0, last_line(error)

    def _measure(self, detections: list[Detections], progress: Progress, journal: Journal | None) -> float:
        metrics = measure(self._dataset, detections, self._metric)
        write_metrics(self._folder / "metrics.json", self._dataset, self._metric, metrics)
        if self._settings.save_detections:
            write_detections(self._folder / "detections.json", self._dataset, detections)
        logger.info("epoch %d\n%s", progress.epoch, table(self._dataset, self._metric, metrics))
        if journal is not None:
            means = {name: value for name, value in metrics.items() if name in MEANS}
            journal.write(progress.epoch, progress.step, means)
        return float(metrics["AP"])
