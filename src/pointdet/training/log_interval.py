# SPDX-License-Identifier: Apache-2.0
"""Mean loss terms and speed of the updates between two rows of the journal."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import nnabla as nn
import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pointdet.arrays import Float64Array
from pointdet.config.schema import TrainConfig
from pointdet.ranks.base import Ranks
from pointdet.training.journal import Journal
from pointdet.training.memory import memory_in_use
from pointdet.training.progress import Progress
from pointdet.training.rank_warnings import send_warnings
from pointdet.training.solver import LossScale

logger = logging.getLogger("pointdet")


def column_names(terms: Sequence[str]) -> list[str]:
    """The columns of a training row of the journal, in their order. `terms`: names of the loss terms."""
    return ["lr", *terms, "loss_scale", "skipped_steps", "images_per_second", "waiting_for_data"]


class LogInterval:
    """Averages over an interval of train.log_intervals updates. An interval also ends with its epoch."""

    def __init__(
        self,
        train: TrainConfig,
        terms: Sequence[str],
        ranks: Ranks,
        journal: Journal | None,
        on_gpu: bool = False,
    ) -> None:
        """`terms`: names of the loss terms. `journal`: None on ranks above 0."""
        self._train, self._terms, self._ranks, self._journal = train, terms, ranks, journal
        self._on_gpu = on_gpu
        self.validation_seconds = 0.0  # duration of a validation, 0 if none is known
        self._restart()

    def _restart(self) -> None:
        self._sums = np.zeros(len(self._terms))
        self._on_device: list[tuple[int, Sequence[nn.NdArray]]] = []  # update, its loss terms
        self._updates, self._skipped, self._waited, self._started = 0, 0, 0.0, time.monotonic()

    @contextmanager
    def epoch(self, progress: Progress) -> Iterator[None]:
        """Enclose the updates of an epoch. Rank 0 shows a progress bar if stderr is a terminal."""
        self._restart()
        with tqdm(
            total=progress.updates_per_epoch,
            initial=progress.update,
            desc=f"epoch {progress.epoch + 1}/{self._train.num_epochs}",
            unit="step",
            disable=self._ranks.rank != 0 or not sys.stderr.isatty(),
        ) as self._bar:
            yield

    def add(self, update: int, terms: Sequence[nn.NdArray] | None, waited: float) -> None:
        """Add one update to the averages.

        `terms`: this rank's shares of the loss terms, an array for each pass, or None if the update was
        skipped. They stay on the device until `fetch`, so the GPU does not wait. `waited`: seconds that the
        update waited for its batches.
        """
        self._updates += 1
        self._waited += waited
        if terms is None:
            self._skipped += 1
        else:
            self._on_device.append((update, terms))
        self._bar.update()

    def fetch(self) -> tuple[int, Float64Array] | None:
        """Copy the loss terms from the device. Returns the first update with terms that are not finite."""
        fault = None
        for update, passes in self._on_device:
            terms = sum((array.data for array in passes), np.zeros(len(self._terms)))
            if fault is None and not np.isfinite(terms).all():
                fault = update, terms
            self._sums += terms
        self._on_device.clear()
        return fault

    def is_over(self, progress: Progress) -> bool:
        """Whether the interval ends after the current update."""
        return progress.update % self._train.log_intervals == 0 or progress.epoch_is_over

    def write(self, progress: Progress, lr: float, loss_scale: LossScale) -> None:
        """Write the journal row and the log line, and start the next interval. Every rank must call it.

        `lr`: the learning rate of the last update. `fetch` comes before it.
        """
        done = self._updates - self._skipped
        means = self._sums / done if done else self._sums + math.nan
        terms = dict(zip(self._terms, self._ranks.sum(means), strict=True))
        seconds = time.monotonic() - self._started
        waited = self._ranks.gather(self._waited)
        send_warnings(self._ranks)
        if self._journal is not None and waited is not None:
            images = self._updates * self._train.batch_size * self._train.accumulate * self._ranks.size
            waiting = max(waited) / seconds
            numbers = [lr, *terms.values(), loss_scale.value, loss_scale.skipped_steps]
            numbers += [images / seconds, waiting]
            row = dict(zip(column_names(self._terms), numbers, strict=True))
            self._journal.write(progress.epoch + 1, progress.step, row)
            self._log(progress, lr, terms, images / seconds, waiting, seconds)
        self._restart()

    def _log(
        self,
        progress: Progress,
        lr: float,
        terms: dict[str, float],
        speed: float,
        waiting: float,
        seconds: float,
    ) -> None:
        shown = ", ".join(f"{name} {value:.4f}" for name, value in terms.items())
        if not self._bar.disable:
            self._bar.set_postfix_str(shown)
        updates = self._train.num_epochs * progress.updates_per_epoch - progress.position
        left = updates * seconds / self._updates + self._validations_left(progress) * self.validation_seconds
        short = self._updates != self._train.log_intervals
        steps = f" ({self._updates} step{'s' * (self._updates != 1)})" * short
        with logging_redirect_tqdm([logger]):  # on a terminal the line stays above the progress bar
            logger.info(
                "epoch %d/%d, step %d/%d%s: %s, lr %.2e, %.1f images/s (%.0f%% waiting), %s, %s left",
                *(progress.epoch + 1, self._train.num_epochs, progress.update, progress.updates_per_epoch),
                *(steps, shown, lr, speed, 100 * waiting, memory_in_use(self._on_gpu), _duration(left)),
            )

    def _validations_left(self, progress: Progress) -> int:
        every, last = self._train.val_intervals, self._train.num_epochs
        return sum(epoch % every == 0 or epoch == last for epoch in range(progress.epoch + 1, last + 1))


def _duration(seconds: float) -> str:
    if seconds < 86400:
        return time.strftime("%H:%M:%S", time.gmtime(seconds))
    return f"{seconds / 86400:.1f} days"
