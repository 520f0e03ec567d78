# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of a run: the complete state of a training. Rank 0 writes them, every rank reads them."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nnabla as nn

from pointdet.errors import PointDetError
from pointdet.model.restore import Model
from pointdet.training.moving_average import MovingAverage
from pointdet.training.progress import Progress
from pointdet.training.solver import Solver
from pointdet.training.statistics import average_over_ranks
from pointdet.weights import checkpoint, h5_file
from pointdet.weights.fit import fit_all

logger = logging.getLogger("pointdet")


class RunCheckpoints:
    """A checkpoint contains parameters.h5, ema.h5 if there is a moving average, solver.h5 and state.json."""

    def __init__(self, folder: Path, model: Model, solver: Solver, average: MovingAverage) -> None:
        """`folder`: contains one folder per checkpoint."""
        self._folder, self._model, self._solver, self._average = folder, model, solver, average
        self._parameters = model.detector.parameters()
        self._saved_at = time.monotonic()

    def is_due(self, minutes: float) -> bool:
        """Whether the latest checkpoint is at least `minutes` old. Always False if `minutes` is 0."""
        return 0 < minutes * 60 <= time.monotonic() - self._saved_at

    def save(self, name: str, progress: Progress) -> None:
        """Write the checkpoint `name`. Every rank must call it. Errors: PointDetError if writing fails."""
        ranks = self._model.runtime.ranks
        average_over_ranks(ranks, self._parameters, self._average.statistics)
        self._saved_at = time.monotonic()
        if ranks.rank:
            return
        state = {
            "weights": "ema.h5" if self._average else "parameters.h5",
            "epoch": progress.epoch,
            "update": progress.update,
            "updates_per_epoch": progress.updates_per_epoch,
            "best_ap": progress.best,
            "ranks": ranks.size,
            "loss_scale": self._solver.loss_scale.state(),
            "class_names": list(self._model.class_names),
            "config": self._model.config.model_dump(mode="json"),
        }
        checkpoint.save(self._folder / name, state, self._write_files)

    def _write_files(self, folder: Path) -> None:
        parameters = {name: (v.d, v.need_grad) for name, v in self._parameters.items()}
        h5_file.write(folder / "parameters.h5", parameters)
        if self._average:
            averages = self._average.values()
            mean = {name: (averages[name], v.need_grad) for name, v in self._parameters.items()}
            h5_file.write(folder / "ema.h5", mean)
        self._solver.save(folder / "solver.h5")

    def load(self, folder: Path, progress: Progress) -> None:
        """Load parameters, moving average, solver state and `progress` from the checkpoint `folder`.

        The checkpoint may have another layout (NCHW, NHWC) or number of input channels; its arrays are
        converted. Errors: PointDetError when the checkpoint belongs to another training.
        """
        state = checkpoint.read_state(folder)
        self._check(folder, state, progress)
        self._fit(folder / "parameters.h5", self._parameters)
        if self._average:
            averages = {n: nn.Variable.from_numpy_array(a) for n, a in self._average.values().items()}
            self._fit(folder / "ema.h5", averages)
            self._average.set({name: average.d for name, average in averages.items()})
        self._solver.load(folder / "solver.h5", self._model.detector.channel_last)
        was_half = state["config"]["mixed_precision"]["mixed_precision"]
        if was_half and self._model.config.mixed_precision.mixed_precision:
            self._solver.loss_scale.restore(state["loss_scale"])
        progress.epoch, progress.update = state["epoch"], state["update"]
        metric = state["config"]["dataset"]["metric"]
        if metric == progress.metric:
            progress.best = state["best_ap"]
        else:
            logger.warning(
                "dataset.metric was %s and is %s: the best AP is counted anew", metric, progress.metric
            )
        logger.info("resumed %s at epoch %d, step %d", folder, progress.epoch + 1, progress.update)

    def _check(self, folder: Path, state: Mapping[str, Any], progress: Progress) -> None:
        """Raise PointDetError if the present settings cannot continue the training of this checkpoint."""
        if tuple(state["class_names"]) != self._model.class_names:
            raise PointDetError(
                f"{folder} was trained for other classes than those of the data; start a new run"
            )
        if state["updates_per_epoch"] != progress.updates_per_epoch:
            raise PointDetError(
                f"{folder} counts {state['updates_per_epoch']} steps per epoch, this run "
                f"{progress.updates_per_epoch}; resume with the same data, batch_size x accumulate x ranks (it ran on "
                f"{state['ranks']}), or start a new run from it with --checkpoint"
            )
        has_average = bool(self._average)
        if has_average != (folder / "ema.h5").is_file():
            raise PointDetError(
                f"{folder} was written {'without' if has_average else 'with'} train.ema_decay; resume with the same "
                "setting, or start a new run from it with --checkpoint"
            )

    def _fit(self, path: Path, parameters: dict[str, nn.Variable]) -> None:
        detector = self._model.detector
        fit_all(h5_file.read(path), parameters, detector.channel_last, detector.class_bias, str(path))
