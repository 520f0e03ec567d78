# SPDX-License-Identifier: Apache-2.0
"""The table of contents of a training: epochs, steps, validation, checkpoints."""

from __future__ import annotations

import logging
import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nnabla as nn
import numpy as np
from tqdm import tqdm

from pointdet.data.loader import Loader
from pointdet.errors import PointDetError
from pointdet.evaluation.metrics import Metrics, measure
from pointdet.evaluation.report import table, write_detections, write_metrics
from pointdet.evaluation.run import evaluate
from pointdet.inference.predictor import Predictor
from pointdet.inference.restore import Model
from pointdet.structures import Batch, Dataset
from pointdet.training.graph import TrainingGraph
from pointdet.training.journal import Journal
from pointdet.training.solver import Solver, learning_rate
from pointdet.weights import checkpoint as checkpoints
from pointdet.weights import h5_file
from pointdet.weights.fit import fit_all

logger = logging.getLogger("pointdet")


class Trainer:
    """Trains one detector; every rank runs the same steps on its own part of each batch."""

    def __init__(
        self,
        model: Model,
        loader: Loader,
        val_set: Dataset | None,
        folder: Path,
    ) -> None:
        """`loader` gives this rank's batches. `folder` exists; rank 0 writes there."""
        self._config, self._detector, self._runtime = model.config, model.detector, model.runtime
        self._ranks = model.runtime.ranks
        self._model, self._loader, self._val_set, self._folder = model, loader, val_set, folder
        self._graph = TrainingGraph(model.config, model.detector, model.runtime)
        self._parameters = model.detector.parameters()
        self._solver = Solver(
            model.config.train,
            model.config.mixed_precision,
            self._parameters,
            in_blocks=model.runtime.kernels(model.config.mixed_precision.mixed_precision) != "nnabla",
        )
        self._callback = self._ranks.backward_callback(self._solver.gradients)
        self._predictor = Predictor.of(model)
        self._updates = loader.iterations // model.config.train.accumulate  # per epoch
        self._epoch, self._update = 0, 0  # the next update to do
        self._best = -1.0
        self._saved_at = time.monotonic()
        self._asked_to_stop = False  # a signal came to this rank
        self._stop = False  # all ranks know

    # -- the run ----------------------------------------------------------------------------------------------

    def run(self) -> bool:
        """Train to the last epoch. False: a signal ended it after a whole step, with a checkpoint."""
        settings = self._config.train
        self._journal = None
        if self._ranks.rank == 0:
            numbers = ["AP", "AP50", "lr", *self._graph.terms, "loss_scale", "skipped_steps"]
            columns = [*numbers, "images_per_second", "waiting_for_data"]
            self._journal = Journal(self._folder, columns, self._epoch * self._updates + self._update)
        with self._signals():
            while self._epoch < settings.num_epochs and not self._stop:
                self._train_epoch()
                if self._stop:
                    break
                last = self._epoch == settings.num_epochs
                if self._val_set is not None and (last or self._epoch % settings.val_intervals == 0):
                    self._validate(self._val_set)
                self._save("last")
                if settings.save_intervals and self._epoch % settings.save_intervals == 0:
                    self._save(f"epoch_{self._epoch:04d}")
        if self._journal is not None:
            self._journal.close()
        if self._stop:
            logger.info("stopped at epoch %d, step %d; continue with --resume", self._epoch + 1, self._update)
        return not self._stop

    def _train_epoch(self) -> None:
        settings = self._config.train
        sums, steps, skips, waited, since = self._zeros(), 0, 0, 0.0, time.monotonic()  # of a log interval
        batches = self._loader.epoch(self._epoch, self._update * settings.accumulate)
        bar = tqdm(
            total=self._updates,
            initial=self._update,
            desc=f"epoch {self._epoch + 1}/{settings.num_epochs}",
            unit="step",
            disable=self._ranks.rank != 0 or not sys.stderr.isatty(),
        )
        while self._update < self._updates and not self._stop:
            started = time.monotonic()
            parts = [next(batches) for _ in range(settings.accumulate)]
            waited += time.monotonic() - started
            terms, save = self._step(parts)
            self._update += 1
            steps += 1
            bar.update()
            if terms is None:
                skips += 1
            else:
                sums += terms
            if self._ends_row(self._update):
                means = sums / (steps - skips) if steps > skips else sums + math.nan
                self._log(means, steps, bar, time.monotonic() - since, waited)
                sums, steps, skips, waited, since = self._zeros(), 0, 0, 0.0, time.monotonic()
            # A whole epoch is saved after its validation.
            if save and self._update < self._updates or self._stop:
                self._save("last")
        bar.close()
        batches.close()
        if self._update == self._updates:
            self._epoch, self._update = self._epoch + 1, 0

    def _ends_row(self, update: int) -> bool:
        """Whether the journal gets a row after so many updates of the epoch."""
        return update % self._config.train.log_intervals == 0 or update == self._updates or self._stop

    def _zeros(self) -> Any:
        return np.zeros(len(self._graph.terms))

    # -- one step ---------------------------------------------------------------------------------------------

    def _step(self, parts: list[Batch]) -> tuple[Any, bool]:
        """One update from `accumulate` batches: this rank's share of the terms (None: skipped), and whether to save.

        The divisors of the loss are those of the joined batch of all ranks and passes, so that summed gradients
        are the gradient of that batch.
        """
        settings, solver, loss = self._config.train, self._solver, self._detector.loss
        old = 0 < settings.save_minutes * 60 <= time.monotonic() - self._saved_at
        wishes = [float(self._asked_to_stop), float(old and self._ranks.rank == 0)]
        counts = sum((loss.count(part) for part in parts), np.zeros(len(loss.divisors)))
        shared = self._ranks.sum(np.concatenate([counts, wishes]))
        divisors, self._stop, save = shared[:-2], bool(shared[-2]), bool(shared[-1])

        solver.begin()
        terms, scale = self._zeros(), solver.loss_scale.value
        for i, part in enumerate(parts):
            numbers = self._graph.forward(part, divisors)
            terms += np.array(list(numbers.values()))
            if not math.isfinite(numbers["total"]) and not self._config.mixed_precision.mixed_precision:
                self._fail("the loss", numbers)
            self._graph.backward(scale, self._callback if i == len(parts) - 1 else None)
        if self._callback is None and self._ranks.size > 1:
            self._ranks.all_reduce(solver.gradients)
        done = solver.update(self._lr())
        # A loss can stay finite when nothing else does: ReLU makes 0 of NaN, normalisation of an infinite variance.
        if save or self._ends_row(self._update + 1):
            name = solver.not_finite()
            if name is not None:
                self._fail(name, numbers)
        return (terms if done else None), save

    def _lr(self) -> float:
        step = self._epoch * self._updates + self._update
        return learning_rate(
            self._config.train.learning_rate, self._config.train.num_epochs, self._updates, step
        )

    def _fail(self, what: str, numbers: dict[str, float]) -> None:
        terms = ", ".join(f"{name} {value:g}" for name, value in numbers.items())
        raise PointDetError(
            f"{what} is not finite at epoch {self._epoch + 1}, step {self._update + 1} (lr {self._lr():g}; {terms}); "
            "lower train.learning_rate.base_lr, raise its warmup_epochs, or set train.clip_grad_norm"
        )

    def _log(self, mean_terms: Any, steps: int, bar: Any, seconds: float, waited: float) -> None:
        terms = dict(zip(self._graph.terms, self._ranks.sum(mean_terms), strict=True))
        if self._journal is None:
            return
        settings = self._config.train
        images = steps * settings.batch_size * settings.accumulate * self._ranks.size
        step = self._epoch * self._updates + self._update
        # The rate that the last update used.
        lr = learning_rate(settings.learning_rate, settings.num_epochs, self._updates, step - 1)
        numbers = {
            "lr": lr,
            **terms,
            "loss_scale": self._solver.loss_scale.value,
            "skipped_steps": self._solver.loss_scale.skipped_steps,
            "images_per_second": images / seconds,
            "waiting_for_data": waited / seconds,
        }
        self._journal.write(self._epoch + 1, step, numbers)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in terms.items())
        if bar.disable:
            left = (settings.num_epochs * self._updates - step) * seconds / steps
            logger.info(
                "epoch %d/%d, step %d/%d: %s, lr %.2e, %.1f images/s (%.0f%% waiting), %s left",
                self._epoch + 1,
                settings.num_epochs,
                self._update,
                self._updates,
                shown,
                lr,
                images / seconds,
                100 * waited / seconds,
                time.strftime("%H:%M:%S", time.gmtime(left)) if left < 86400 else f"{left / 86400:.1f} days",
            )
        else:
            bar.set_postfix_str(shown)

    # -- validation -------------------------------------------------------------------------------------------

    def _validate(self, val_set: Dataset) -> None:
        self._share_statistics()
        with self._averaged_parameters():
            detections = evaluate(self._predictor, val_set, self._ranks)
        metrics: Metrics | None = None
        if self._ranks.rank == 0:
            metric = self._config.dataset.metric
            metrics = measure(val_set, detections, metric)
            folder = self._folder / "evaluation"
            write_metrics(folder / "metrics.json", val_set, metric, metrics)
            write_detections(folder / "detections.json", val_set, detections)
            logger.info("epoch %d\n%s", self._epoch, table(val_set, metric, metrics))
            if self._journal is not None:
                means = {name: value for name, value in metrics.items() if name in ("AP", "AP50")}
                self._journal.write(self._epoch, self._epoch * self._updates, means)
        ap = float(self._ranks.broadcast(metrics["AP"] if metrics else None))
        if ap > self._best:
            self._best = ap
            self._save("best")

    def _share_statistics(self) -> None:
        """Running statistics become the mean over the ranks, so that all ranks evaluate the same network."""
        if self._ranks.size == 1:
            return
        averages = self._solver.averaged()
        names = [name for name, v in self._parameters.items() if not v.need_grad]
        statistics = [self._parameters[name].data for name in names]
        statistics += [averages[name] for name in names if name in averages]
        self._ranks.all_reduce(statistics)
        for array in statistics:
            array.data[...] /= self._ranks.size

    @contextmanager
    def _averaged_parameters(self) -> Iterator[None]:
        """The moving average in the place of the parameters, where there is one."""
        averages = self._solver.averaged()
        originals = {name: nn.NdArray(average.shape) for name, average in averages.items()}
        for name, average in averages.items():
            originals[name].copy_from(self._parameters[name].data)
            self._parameters[name].data.copy_from(average)
        try:
            yield
        finally:
            for name, original in originals.items():
                self._parameters[name].data.copy_from(original)

    # -- checkpoints ------------------------------------------------------------------------------------------

    def _save(self, name: str) -> None:
        """Write checkpoints/`name` on rank 0; every rank must call."""
        self._share_statistics()
        self._saved_at = time.monotonic()
        if self._ranks.rank:
            return
        averages = self._solver.averaged()
        state = {
            "weights": "ema.h5" if averages else "parameters.h5",
            "epoch": self._epoch,
            "update": self._update,
            "updates_per_epoch": self._updates,
            "best_ap": self._best,
            "ranks": self._ranks.size,
            "loss_scale": self._solver.loss_scale.state(),
            "class_names": list(self._model.class_names),
            "config": self._config.model_dump(mode="json"),
        }

        def write_files(folder: Path) -> None:
            raw = {name: (v.d, v.need_grad) for name, v in self._parameters.items()}
            h5_file.write(folder / "parameters.h5", raw)
            if averages:
                mean = {name: (averages[name].data, v.need_grad) for name, v in self._parameters.items()}
                h5_file.write(folder / "ema.h5", mean)
            self._solver.save(folder / "solver.h5")

        checkpoints.save(self._folder / "checkpoints" / name, state, write_files)

    def resume(self, folder: Path) -> None:
        """Continue where the checkpoint `folder` stands. Errors: PointDetError when it is of another run."""
        state = checkpoints.read_state(folder)
        if tuple(state["class_names"]) != self._model.class_names:
            raise PointDetError(
                f"{folder} was trained for other classes than those of the data; start a new run"
            )
        if state["updates_per_epoch"] != self._updates:
            raise PointDetError(
                f"{folder} counts {state['updates_per_epoch']} steps per epoch, this run {self._updates}; resume with "
                f"the same data, batch_size x accumulate x ranks (it ran on {state['ranks']}), or start a new run "
                "from it with --checkpoint"
            )
        averages = self._solver.averaged()
        if bool(averages) != (folder / "ema.h5").is_file():
            raise PointDetError(
                f"{folder} was written {'without' if averages else 'with'} train.ema_decay; resume with the same "
                "setting, or start a new run from it with --checkpoint"
            )
        source, detector = folder / "parameters.h5", self._detector
        fit_all(
            h5_file.read(source), self._parameters, detector.channel_last, detector.class_bias, str(source)
        )
        self._solver.load(folder / "solver.h5")
        if averages:
            stored = h5_file.read(folder / "ema.h5")
            for name, average in averages.items():
                average.cast(np.float32)[...] = stored[name]
        self._solver.loss_scale.restore(state["loss_scale"])
        self._epoch, self._update, self._best = state["epoch"], state["update"], state["best_ap"]
        logger.info("resumed %s at epoch %d, step %d", folder, self._epoch + 1, self._update)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM (a scheduler's warning) and the first SIGINT end the run at the next whole step, on all ranks.

        SIGUSR1 as well: mpirun hands it on, while after a SIGTERM it soon kills the ranks.
        """

        def stop(signum: int, frame: object) -> None:
            self._asked_to_stop = True
            signal.signal(signal.SIGINT, signal.default_int_handler)

        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
        before = {number: signal.signal(number, stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
