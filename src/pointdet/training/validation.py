# SPDX-License-Identifier: Apache-2.0
"""Validation: compute AP and loss of the validation images, write and log the results."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
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
from pointdet.training.validation_loss import ValidationLoss

logger = logging.getLogger("pointdet")

MEANS = ("AP", "AP50")  # metrics in the journal


def validation_columns(validation: Sequence[str], terms: Sequence[str]) -> tuple[str, ...]:
    """The columns of a validation row of the journal. `validation`: train.validation; `terms`: of the loss."""
    losses = tuple(f"validation_{term}" for term in terms) if "loss" in validation else ()
    return (*MEANS, *losses)


class Validation:
    """Evaluates the moving average of the parameters, or the parameters themselves if there is no average."""

    def __init__(self, model: Model, dataset: Dataset, average: MovingAverage, folder: Path) -> None:
        """`folder`: the run folder. The results are written to its folder evaluation/."""
        self._predictor = Predictor.of(model)
        self._ranks, self._metric = model.runtime.ranks, model.config.dataset.metric
        self._settings = model.config.train
        self._dataset, self._average, self._folder = dataset, average, folder / "evaluation"
        self._loss = ValidationLoss(model, dataset)

    def run(self, progress: Progress, journal: Journal | None, stop: Callable[[], bool]) -> dict[str, float]:
        """Measure on all ranks what train.validation names, and return "ap" and "loss" in this order.

        Raises Stopped if `stop()` becomes true on any rank. Every rank must call it; rank 0 writes and logs. Errors:
        PointDetError if the results cannot be computed or written; with train.failed_validation `continue` it is
        logged and the values are -1.
        """
        measured, detections, terms = self._settings.validation, None, {}
        with self._average.applied():
            if "ap" in measured:
                detections = evaluate(self._predictor, self._dataset, self._ranks, stop)
            if "loss" in measured:
                terms = self._loss.measure(stop)
        known, fault = from_rank_0(self._ranks, lambda: self._outcome(detections, terms, progress, journal))
        values: dict[str, float] = {name: known[name] for name in measured}
        if fault:
            sentence = f"the validation of epoch {progress.epoch} failed ({fault})"
            if self._settings.failed_validation == "stop":
                raise PointDetError(
                    f"{sentence}; the epoch is saved: correct the cause and continue with --resume"
                )
            logger.warning("%s; the training goes on", sentence)
        return values

    def _outcome(
        self,
        detections: list[Detections] | None,
        terms: dict[str, float],
        progress: Progress,
        journal: Journal | None,
    ) -> tuple[dict[str, float], str]:
        """AP and loss, or -1, and what prevented them from being computed or written, if anything."""
        row = {f"validation_{name}": value for name, value in terms.items()}
        try:
            if detections is not None:
                row |= self._measure(detections, progress)
            if journal is not None:
                journal.write(progress.epoch, progress.step, row)
        except (PointDetError, OSError) as error:
            return {"ap": -1.0, "loss": -1.0}, last_line(error)
        return {"ap": row.get("AP", -1.0), "loss": terms.get("total", -1.0)}, ""

    def _measure(self, detections: list[Detections], progress: Progress) -> dict[str, float]:
        """The means of the journal. Writes metrics.json, and detections.json if it is wanted."""
        metrics = measure(self._dataset, detections, self._metric)
        write_metrics(self._folder / "metrics.json", self._dataset, self._metric, metrics)
        if self._settings.save_detections:
            write_detections(self._folder / "detections.json", self._dataset, detections)
        logger.info("epoch %d\n%s", progress.epoch, table(self._dataset, self._metric, metrics))
        return {name: value for name, value in metrics.items() if name in MEANS}
