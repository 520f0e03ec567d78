# SPDX-License-Identifier: Apache-2.0
"""The training loop: epochs and updates, with validation and checkpoints between them."""

from __future__ import annotations

import logging
import time
from contextlib import closing, nullcontext
from pathlib import Path

import nnabla as nn
import numpy as np

from pointdet.arrays import Batch, Float64Array
from pointdet.data.loader import Loader
from pointdet.errors import PointDetError
from pointdet.model.restore import Model
from pointdet.stop_request import StopRequest
from pointdet.structures import Dataset
from pointdet.training.graph import TrainingGraph
from pointdet.training.journal import Journal
from pointdet.training.log_interval import LogInterval, column_names
from pointdet.training.moving_average import MovingAverage
from pointdet.training.progress import Progress
from pointdet.training.run_checkpoints import RunCheckpoints
from pointdet.training.solver import Solver, learning_rate
from pointdet.training.statistics import average_over_ranks
from pointdet.training.validation import MEANS, Validation

logger = logging.getLogger("pointdet")


class Trainer:
    """Trains one detector. Every rank runs the same updates, each on its own part of the batches."""

    def __init__(self, model: Model, loader: Loader, val_set: Dataset | None, folder: Path) -> None:
        """`loader`: the batches of this rank. `folder`: the run folder, which rank 0 writes to."""
        config, self._ranks = model.config, model.runtime.ranks
        self._settings, self._mixed = config.train, config.mixed_precision.mixed_precision
        self._loader, self._loss, self._folder = loader, model.detector.loss, folder
        self._parameters = model.detector.parameters()
        in_blocks = model.runtime.kernels(self._mixed) != "nnabla"
        self._graph = TrainingGraph(config, model.detector, model.runtime)
        self._solver = Solver(config.train, config.mixed_precision, self._parameters, in_blocks)
        self._average = MovingAverage(self._parameters, config.train.ema_decay, in_blocks)
        self._gradient_sum = self._ranks.gradient_sum(self._graph.terms["total"], self._solver.gradients)
        self._checkpoints = RunCheckpoints(folder / "checkpoints", model, self._solver, self._average)
        self._validation = Validation(model, val_set, self._average, folder) if val_set is not None else None
        self._progress = Progress(loader.iterations // config.train.accumulate, config.dataset.metric)

    def resume(self, checkpoint: Path) -> None:
        """Load a checkpoint folder. Errors: PointDetError when it belongs to another training."""
        self._checkpoints.load(checkpoint, self._progress)

    def run(self) -> bool:
        """Train to the last epoch. Returns False if a signal stopped the training, after writing `last`."""
        progress, terms = self._progress, list(self._graph.terms)
        columns = [*MEANS, *column_names(terms)]
        journal = Journal(self._folder, columns, progress.step) if self._ranks.rank == 0 else None
        log = LogInterval(self._settings, terms, self._ranks, journal)
        with closing(journal) if journal is not None else nullcontext(), StopRequest() as request:
            while progress.epoch < self._settings.num_epochs:
                if not self._train_epoch(request, log):
                    epoch, update = progress.epoch + 1, progress.update
                    logger.info("stopped at epoch %d, step %d; continue with --resume", epoch, update)
                    return False
                self._finish_epoch(journal)
        return True

    def _train_epoch(self, request: StopRequest, log: LogInterval) -> bool:
        """Run the remaining updates of the epoch. Returns False after a stop request, with `last` written."""
        progress, accumulate = self._progress, self._settings.accumulate
        batches = self._loader.epoch(progress.epoch, progress.update * accumulate)
        with closing(batches), log.epoch(progress):
            while not progress.epoch_is_over:
                started = time.monotonic()
                parts = [next(batches) for _ in range(accumulate)]
                waited = time.monotonic() - started
                divisors, stop, save = self._sum_over_ranks(parts, request)
                terms, lr = self._update(parts, divisors)
                log.add(progress.update, terms, waited)
                log_now = stop or log.is_over(progress)
                if log_now or save:
                    self._check(log, lr)
                if log_now:
                    log.write(progress, lr, self._solver.loss_scale)
                if stop or save and not progress.epoch_is_over:  # `_finish_epoch` saves after the last update
                    self._checkpoints.save("last", progress)
                if stop:
                    return False
        return True

    def _finish_epoch(self, journal: Journal | None) -> None:
        """Validate if it is due, and write the checkpoints."""
        settings, progress = self._settings, self._progress
        progress.next_epoch()
        last = progress.epoch == settings.num_epochs
        if self._validation is not None and (last or progress.epoch % settings.val_intervals == 0):
            average_over_ranks(self._ranks, self._parameters, self._average.statistics)
            ap = self._validation.run(progress, journal)
            if ap > progress.best:
                progress.best = ap
                self._checkpoints.save("best", progress)
        self._checkpoints.save("last", progress)
        if settings.save_intervals and progress.epoch % settings.save_intervals == 0:
            self._checkpoints.save(f"epoch_{progress.epoch:04d}", progress)

    def _sum_over_ranks(self, parts: list[Batch], request: StopRequest) -> tuple[Float64Array, bool, bool]:
        """The divisors of the loss, whether any rank has a stop request, whether a checkpoint is due."""
        counts = sum((self._loss.count(part) for part in parts), np.zeros(len(self._loss.divisors)))
        due = self._ranks.rank == 0 and self._checkpoints.is_due(self._settings.save_minutes)
        summed = self._ranks.sum(np.concatenate([counts, [float(request.requested), float(due)]]))
        return summed[:-2], bool(summed[-2]), bool(summed[-1])

    def _update(self, parts: list[Batch], divisors: Float64Array) -> tuple[list[nn.NdArray] | None, float]:
        """Run one update on `accumulate` batches.

        Returns this rank's shares of the loss terms, or None if the step was skipped, and the learning rate.
        Gradients are summed over passes and ranks. The divisors count all passes and ranks, so the sum is the
        gradient of the joined batch.
        """
        solver, progress, settings = self._solver, self._progress, self._settings
        iterations = progress.updates_per_epoch
        lr = learning_rate(settings.learning_rate, settings.num_epochs, iterations, progress.step)
        progress.update += 1
        solver.begin()
        terms, scale = [], solver.loss_scale.value
        for number, part in enumerate(parts, 1):
            terms.append(self._graph.forward(part, divisors))
            self._graph.backward(scale, self._gradient_sum.hook if number == len(parts) else None)
        self._gradient_sum.finish()
        if not solver.update(lr):
            return None, lr
        self._average.update()
        return terms, lr

    def _check(self, log: LogInterval, lr: float) -> None:
        """Raise PointDetError if a loss term or a parameter is not finite.

        A finite loss is not enough: ReLU turns NaN into 0, an infinite variance turns values into 0.
        """
        fault = log.fetch()
        if fault is not None and not self._mixed:
            raise self._not_finite("the loss", *fault, lr)
        if (name := self._solver.not_finite()) is not None:
            terms = np.array(list(self._graph.values().values()))
            raise self._not_finite(name, self._progress.update, terms, lr)

    def _not_finite(self, what: str, update: int, terms: Float64Array, lr: float) -> PointDetError:
        shown = ", ".join(f"{name} {value:g}" for name, value in zip(self._graph.terms, terms, strict=True))
        return PointDetError(
            f"{what} is not finite at epoch {self._progress.epoch + 1}, step {update} (lr {lr:g}; {shown}); "
            "lower train.learning_rate.base_lr, raise its warmup_epochs, or set train.clip_grad_norm"
        )
