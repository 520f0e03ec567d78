# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of a run: the complete state of a training. Rank 0 writes them, every rank reads them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nnabla as nn
import numpy as np

from pointdet.arrays import Arrays
from pointdet.config.schema import Config
from pointdet.errors import PointDetError
from pointdet.files import link_or_copy
from pointdet.model.restore import Model
from pointdet.ranks.long_work import from_rank_0
from pointdet.training.changed_settings import changed_keys, same_place
from pointdet.training.moving_average import MovingAverage
from pointdet.training.progress import LOSS, Progress, metric_of_best
from pointdet.training.solver import Solver
from pointdet.weights import checkpoint, h5_file
from pointdet.weights.fit import fit_all

logger = logging.getLogger("pointdet")


class RunCheckpoints:
    """A checkpoint contains parameters.h5, ema.h5 if there is a moving average, state.json, and solver.h5.

    Only `last` has solver.h5, unless train.save_solver is `all`. With several ranks there is also
    statistics.h5, the running statistics of every rank; the other files contain their mean.
    """

    def __init__(self, folder: Path, model: Model, solver: Solver, average: MovingAverage) -> None:
        """`folder`: contains one folder per checkpoint."""
        self._folder, self._model, self._solver, self._average = folder, model, solver, average
        self._parameters = model.detector.parameters()
        self._settings = model.config.train
        self._images_per_update = (
            self._settings.batch_size * self._settings.accumulate * model.runtime.ranks.size
        )
        self._saved_at = time.monotonic()
        self._saved_step = 0  # `Progress.step` of the latest checkpoint
        self._writing = threading.Lock()

    def is_due(self, minutes: float) -> bool:
        """Whether the latest checkpoint is at least `minutes` old. Always False if `minutes` is 0."""
        return 0 < minutes * 60 <= time.monotonic() - self._saved_at

    @property
    def statistics(self) -> list[nn.NdArray]:
        """The running statistics of this rank, and their moving averages."""
        own = [variable.data for variable in self._parameters.values() if not variable.need_grad]
        return own + self._average.statistics

    def save_last(self, progress: Progress) -> None:
        """Write the checkpoint `last`. Every rank must call it. Errors: PointDetError if writing fails."""
        ranks = self._model.runtime.ranks
        own = ranks.gather(self._own_statistics()) if ranks.size > 1 else None
        from_rank_0(ranks, lambda: self._write_last(progress, own))
        self._saved_at = time.monotonic()

    def save_alone(self, progress: Progress) -> str:
        """Write `last` on rank 0 without the other ranks, which do not answer: with its own running statistics.

        May be called from another thread while this one waits for the other ranks, outside of an update. Returns
        what it did, as a part of a sentence. Errors: PointDetError if writing fails or a value is not finite.
        """
        with self._writing:
            written = progress.step == self._saved_step
        if written:
            return "no step was completed after the last checkpoint, which stays as it is"
        for name, variable in self._parameters.items():
            if not np.isfinite(variable.d).all():
                raise PointDetError(f"{name} is not finite")
        self._write_last(progress, None)
        where = f"epoch {progress.epoch + 1}, step {progress.update}"
        return f"{self._folder / 'last'} has {where}, with the running statistics of rank 0 alone"

    def _write_last(self, progress: Progress, own_statistics: list[Arrays] | None) -> None:
        started, folder = time.monotonic(), self._folder / "last"
        with self._writing:
            checkpoint.save(
                folder, self._state(progress), lambda writing: self._write_files(writing, own_statistics)
            )
            self._saved_step = progress.step
        logger.info("saved %s (%.1f s)", folder, time.monotonic() - started)

    def copy_last(self, name: str, progress: Progress) -> None:
        """Make the checkpoint `name` from `last`, which must be of the same update. Rank 0 does it.

        The files are hard links where the file system has them, so they need no further space.
        """
        if self._model.runtime.ranks.rank:
            return
        last = self._folder / "last"
        files = [f for f in last.iterdir() if f.suffix == ".h5"]
        if self._settings.save_solver == "last":
            files = [file for file in files if file.name not in ("solver.h5", "statistics.h5")]

        def link_files(folder: Path) -> None:
            for file in files:
                link_or_copy(file, folder / file.name)

        checkpoint.save(self._folder / name, self._state(progress), link_files)
        logger.info("saved %s", self._folder / name)

    def update_last(self, progress: Progress) -> None:
        """Write `progress` to the state of `last`, whose parameters stay. Rank 0 does it."""
        if self._model.runtime.ranks.rank == 0:
            checkpoint.write_state(self._folder / "last", self._state(progress))

    def is_snapshot(self, progress: Progress) -> bool:
        """Whether train.snapshot asks for a checkpoint of the present step."""
        every = self._settings.snapshot
        return every > 0 and progress.step > 0 and progress.step % every == 0

    def keep(self, progress: Progress) -> None:
        """Make epoch_N and step_N from `last` if train.save_intervals and train.snapshot say so, and remove the
        oldest of each kind beyond train.keep_checkpoints. Rank 0 does it. It may be called again."""
        every, epoch = self._settings.save_intervals, progress.epoch
        if self._model.runtime.ranks.rank:
            return
        if every and epoch and epoch % every == 0 and progress.update == 0:
            self._keep("epoch", f"{epoch:04d}", progress)
        if self.is_snapshot(progress):
            self._keep("step", f"{progress.step:07d}", progress)

    def _keep(self, kind: str, number: str, progress: Progress) -> None:
        name, last = f"{kind}_{number}", checkpoint.find(self._folder / "last")
        if (self._folder / name).exists() or last is None:
            return
        if checkpoint.iteration(checkpoint.read_state(last)) == progress.step:
            self.copy_last(name, progress)
        if most := self._settings.keep_checkpoints:
            for folder in sorted(self._folder.glob(f"{kind}_*"))[:-most]:
                checkpoint.remove(folder)

    def _state(self, progress: Progress) -> dict[str, Any]:
        return {
            "weights": "ema.h5" if self._average else "parameters.h5",
            "epoch": progress.epoch,
            "update": progress.update,
            "step": progress.step,
            "updates_per_epoch": progress.updates_per_epoch,
            "images_per_update": self._images_per_update,
            "best_ap": -1.0 if progress.metric == LOSS else progress.best,
            "best_loss": progress.best if progress.metric == LOSS else -1.0,
            "validation_due": progress.validation_due,
            "ranks": self._model.runtime.ranks.size,
            "loss_scale": self._solver.loss_scale.state(),
            "class_names": list(self._model.class_names),
            "config": self._model.config.model_dump(mode="json"),
        }

    def _own_statistics(self) -> Arrays:
        """The running statistics of this rank by name; their moving averages have the prefix `ema/`."""
        averages = self._average.values()
        names = [name for name, variable in self._parameters.items() if not variable.need_grad]
        own = {name: self._parameters[name].d.copy() for name in names}
        return own | {f"ema/{name}": averages[name] for name in names if name in averages}

    def _write_files(self, folder: Path, own_statistics: list[Arrays] | None) -> None:
        """`own_statistics`: of all ranks; None: only those of this rank are written."""
        mean = _mean(own_statistics) if own_statistics is not None else {}
        parameters = {name: (mean.get(name, v.d), v.need_grad) for name, v in self._parameters.items()}
        h5_file.write(folder / "parameters.h5", parameters)
        if self._average:
            averages = {name: mean.get(f"ema/{name}", a) for name, a in self._average.values().items()}
            h5_file.write(
                folder / "ema.h5", {n: (averages[n], v.need_grad) for n, v in self._parameters.items()}
            )
        if own_statistics is not None:
            named = (
                (f"rank_{r}/{name}", a) for r, own in enumerate(own_statistics) for name, a in own.items()
            )
            h5_file.write(folder / "statistics.h5", {name: (array, False) for name, array in named})
        self._solver.save(folder / "solver.h5")

    def load(self, folder: Path, progress: Progress) -> None:
        """Load parameters, moving average, solver state and `progress` from the checkpoint `folder`.

        The checkpoint may have another layout (NCHW, NHWC) or number of input channels; its arrays are
        converted. Errors: PointDetError when the checkpoint belongs to another training.
        """
        state = checkpoint.read_state(folder, checkpoint.TRAINING)
        config = checkpoint.config(folder, state)
        self._check(folder, state)
        if not (folder / "solver.h5").is_file():
            raise PointDetError(
                f"{folder} has no state of the solver; resume from checkpoints/last, and train with "
                "train.save_solver=all to resume from other checkpoints"
            )
        self._fit(folder / "parameters.h5", self._parameters)
        self._load_average(folder)
        self._load_own_statistics(folder, state)
        self._solver.load(folder / "solver.h5", self._model.detector.channel_last)
        self._load_loss_scale(state, config)
        self._set_position(state, progress)
        progress.validation_due = state.get("validation_due", False)
        metric = metric_of_best(config.model_dump(mode="json"))
        if metric == progress.metric:
            progress.best = state["best_loss" if metric == LOSS else "best_ap"]
        else:
            logger.warning(
                "the metric of `best` was %s and is %s: it is counted anew", metric, progress.metric
            )
        logger.info("resumed %s at epoch %d, step %d", folder, progress.epoch + 1, progress.update)
        for line in changed_keys(state["config"], self._model.config.model_dump(mode="json")):
            logger.info("changed since the checkpoint: %s", line)

    def _load_average(self, folder: Path) -> None:
        stored = (folder / "ema.h5").is_file()
        if self._average and stored:
            averages = {n: nn.Variable.from_numpy_array(a) for n, a in self._average.values().items()}
            self._fit(folder / "ema.h5", averages)
            self._average.set({name: average.d for name, average in averages.items()})
        elif self._average:
            self._average.set({name: variable.d for name, variable in self._parameters.items()})
            logger.info("%s has no moving average: it starts with the parameters", folder)
        elif stored:
            logger.info("train.ema_decay is 0: the moving average of %s is not used", folder)

    def _load_loss_scale(self, state: Mapping[str, Any], config: Config) -> None:
        """The loss scale goes on if half precision does, unless another initial scale is configured."""
        before, now = config.mixed_precision, self._model.config.mixed_precision
        if before.mixed_precision and now.mixed_precision:
            scale = dict(state["loss_scale"])
            if before.loss_scaling != now.loss_scaling:
                scale |= {"value": now.loss_scaling, "good_steps": 0}
            self._solver.loss_scale.restore(scale)

    def _set_position(self, state: Mapping[str, Any], progress: Progress) -> None:
        """Continue at the same place of the epoch, by the images that the training has seen of it."""
        progress.epoch, progress.update = state["epoch"], state["update"]
        progress.step = self._saved_step = checkpoint.iteration(state)
        now = progress.updates_per_epoch, self._images_per_update
        before = state["updates_per_epoch"], state.get("images_per_update", self._images_per_update)
        if before == now:
            return
        progress.update = same_place(state["update"], before, now)
        logger.warning(
            "the checkpoint has %d steps of %d images per epoch (%d ranks), this run %d of %d (%d ranks): "
            "it continues after step %d of epoch %d",
            *(*before, state["ranks"], *now, self._model.runtime.ranks.size),
            *(progress.update, progress.epoch + 1),
        )

    def _load_own_statistics(self, folder: Path, state: Mapping[str, Any]) -> None:
        """Load the statistics of this rank, if the number of ranks and the layout are as they were."""
        ranks, present = self._model.runtime.ranks, self._own_statistics()
        if ranks.size == 1 or state["ranks"] != ranks.size or not (folder / "statistics.h5").is_file():
            return
        prefix = f"rank_{ranks.rank}/"
        stored = h5_file.read(folder / "statistics.h5")
        own = {name.removeprefix(prefix): a for name, a in stored.items() if name.startswith(prefix)}
        if {name: a.shape for name, a in own.items()} != {name: a.shape for name, a in present.items()}:
            return
        averages = self._average.values()
        for name, array in own.items():
            if name.startswith("ema/"):
                averages[name.removeprefix("ema/")] = array
            else:
                self._parameters[name].data.data = array
        self._average.set(averages)

    def _check(self, folder: Path, state: Mapping[str, Any]) -> None:
        """Raise PointDetError if the present settings cannot continue the training of this checkpoint."""
        if tuple(state["class_names"]) != self._model.class_names:
            raise PointDetError(
                f"{folder} was trained for other classes than those of the data; start a new run"
            )

    def _fit(self, path: Path, parameters: dict[str, nn.Variable]) -> None:
        detector = self._model.detector
        fit_all(h5_file.read(path), parameters, detector.channel_last, detector.class_bias, str(path))


def _mean(parts: list[Arrays]) -> Arrays:
    """The mean of arrays over the ranks."""
    return {name: np.mean([part[name] for part in parts], axis=0, dtype=np.float32) for name in parts[0]}
