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
from pointdet.stop_request import Stopped, StopRequest
from pointdet.structures import Dataset
from pointdet.training.data_faults import DataFaults
from pointdet.training.graph import TrainingGraph
from pointdet.training.journal import Journal
from pointdet.training.log_interval import LogInterval, column_names
from pointdet.training.moving_average import MovingAverage
from pointdet.training.progress import Progress, metric_of_best
from pointdet.training.run_checkpoints import RunCheckpoints
from pointdet.training.solver import Solver, learning_rate
from pointdet.training.statistics import averaged_over_ranks
from pointdet.training.validation import Validation, validation_columns

logger = logging.getLogger("pointdet")

SHOWN = {"ap": "AP", "loss": "loss"}  # in the log


class Trainer:
    """Trains one detector. Every rank runs the same updates, each on its own part of the batches."""

    def __init__(self, model: Model, loader: Loader, val_set: Dataset | None, folder: Path) -> None:
        """`loader`: the batches of this rank. `folder`: the run folder, which rank 0 writes to."""
        config, self._ranks = model.config, model.runtime.ranks
        self._settings, self._mixed = config.train, config.mixed_precision.mixed_precision
        self._loader, self._loss, self._folder = loader, model.detector.loss, folder
        parameters = model.detector.parameters()
        in_blocks = model.runtime.kernels(self._mixed) != "nnabla"
        self._graph = TrainingGraph(config, model.detector, model.runtime)
        self._solver = Solver(config.train, config.mixed_precision, parameters, in_blocks)
        self._average = MovingAverage(parameters, config.train.ema_decay, in_blocks)
        self._gradient_sum = self._ranks.gradient_sum(self._graph.terms["total"], self._solver.gradients)
        self._checkpoints = RunCheckpoints(folder / "checkpoints", model, self._solver, self._average)
        self._validation = Validation(model, val_set, self._average, folder) if val_set is not None else None
        self._data_faults = DataFaults(loader, self._ranks)
        self._on_gpu = not model.runtime.on_cpu
        metric = metric_of_best(config.model_dump())
        self._progress = Progress(loader.iterations // config.train.accumulate, metric)

    def resume(self, checkpoint: Path) -> None:
        """Load a checkpoint folder. Errors: PointDetError when it belongs to another training."""
        self._checkpoints.load(checkpoint, self._progress)
        if not self._progress.validation_due:
            self._checkpoints.keep(self._progress)  # the run was perhaps killed before it

    def run(self) -> bool:
        """Train to the last epoch. Returns False if a signal stopped the training, after writing `last`."""
        progress, terms = self._progress, list(self._graph.terms)
        validated = validation_columns(self._settings.validation, terms)
        columns = [*validated, *column_names(terms)]
        journal = None
        if self._ranks.rank == 0:
            repeated = validated if progress.validation_due else ()
            journal = Journal(self._folder, columns, progress.step, repeated)
        log = LogInterval(self._settings, terms, self._ranks, journal, self._on_gpu)
        with (
            closing(journal) if journal is not None else nullcontext(),
            StopRequest() as request,
            self._ranks.saving(lambda: self._checkpoints.save_alone(progress)),
        ):
            finished = self._run(request, log, journal)
        if not finished:
            where = f"epoch {progress.epoch + 1}, step {progress.update}"
            if progress.validation_due:
                where = f"the validation of epoch {progress.epoch}"
            logger.info("stopped at %s; continue with --resume", where)
        elif progress.best >= 0:
            best = SHOWN[self._settings.validation[0]], progress.best
            logger.info("best %s %.4f, in %s", *best, self._folder / "checkpoints" / "best")
        return finished

    def _run(self, request: StopRequest, log: LogInterval, journal: Journal | None) -> bool:
        progress = self._progress
        while True:
            if progress.validation_due and not self._validate(request, log, journal):
                return False
            if progress.epoch >= self._settings.num_epochs:
                return True
            if not self._train_epoch(request, log):
                return False
            self._end_epoch()

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
                save = save or self._checkpoints.is_snapshot(progress)
                if log_now or save:
                    self._check(log, lr)
                if log_now:
                    log.write(progress, lr, self._solver.loss_scale)
                if stop or save and not progress.epoch_is_over:  # `_end_epoch` saves after the last update
                    self._checkpoints.save_last(progress)
                    self._checkpoints.keep(progress)
                if stop:
                    return False
        return True

    def _end_epoch(self) -> None:
        """Save the trained epoch. Nothing that happens in its validation can lose it."""
        settings, progress = self._settings, self._progress
        progress.next_epoch()
        last = progress.epoch == settings.num_epochs
        progress.validation_due = self._validation is not None and (
            last or progress.epoch % settings.val_intervals == 0
        )
        self._data_faults.warn_of_overflow(progress.epoch)
        self._checkpoints.save_last(progress)
        if not progress.validation_due:
            self._checkpoints.keep(progress)

    def _validate(self, request: StopRequest, log: LogInterval, journal: Journal | None) -> bool:
        """Validate the last epoch. Returns False after a stop request; the resumed run validates then."""
        progress, checkpoints = self._progress, self._checkpoints
        if self._validation is not None:
            started = time.monotonic()
            try:
                with averaged_over_ranks(self._ranks, checkpoints.statistics):
                    values = self._validation.run(progress, journal, lambda: request.requested)
            except Stopped:
                return False
            log.validation_seconds = time.monotonic() - started
            progress.validation_due = False
            value = values[self._settings.validation[0]]
            is_best = progress.improves(value)
            shown = ", ".join(f"{SHOWN[name]} {value:.4f}" for name, value in values.items())
            logger.info(
                *("validation of epoch %d: %s, %s, %.0f s", progress.epoch, shown),
                *("the best so far" if is_best else f"best {progress.best:.4f}", log.validation_seconds),
            )
            if is_best:
                progress.best = value
                checkpoints.copy_last("best", progress)
        progress.validation_due = False  # the resumed run may have no validation images
        checkpoints.keep(progress)
        checkpoints.update_last(progress)  # at the end: a run that was killed before repeats the validation
        return True

    def _sum_over_ranks(self, parts: list[Batch], request: StopRequest) -> tuple[Float64Array, bool, bool]:
        """The divisors of the loss, whether any rank has a stop request, whether a checkpoint is due."""
        counts = sum((self._loss.count(part) for part in parts), np.zeros(len(self._loss.divisors)))
        due = self._ranks.rank == 0 and self._checkpoints.is_due(self._settings.save_minutes)
        flags = [float(self._data_faults.unknown), float(request.requested), float(due)]
        summed = self._ranks.sum(np.concatenate([counts, flags]))
        if summed[-3]:
            self._data_faults.share()
        return summed[:-3], bool(summed[-2]), bool(summed[-1])

    def _update(self, parts: list[Batch], divisors: Float64Array) -> tuple[list[nn.NdArray] | None, float]:
        """Run one update on `accumulate` batches.

        Returns this rank's shares of the loss terms, or None if the step was skipped, and the learning rate.
        Gradients are summed over passes and ranks. The divisors count all passes and ranks, so the sum is the
        gradient of the joined batch.
        """
        solver, progress, settings = self._solver, self._progress, self._settings
        iterations = progress.updates_per_epoch
        lr = learning_rate(settings.learning_rate, settings.num_epochs, iterations, progress.position)
        solver.begin()
        terms, scale = [], solver.loss_scale.value
        for number, part in enumerate(parts, 1):
            terms.append(self._graph.forward(part, divisors))
            self._graph.backward(scale, self._gradient_sum.hook if number == len(parts) else None)
        self._gradient_sum.finish()
        updated = solver.update(lr)
        if updated:
            self._average.update()
        progress.next_update()  # only now: until here, the checkpoint of a run that ends is of the update before
        return terms if updated else None, lr

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
