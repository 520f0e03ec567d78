# SPDX-License-Identifier: Apache-2.0
"""The progress of a training: completed epochs and updates, and the best validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LOSS = "loss"


@dataclass
class Progress:
    """Counts completed updates and epochs. The numbers are the same on all ranks."""

    updates_per_epoch: int
    metric: str  # the metric of `best`: LOSS, or dataset.metric for AP
    epoch: int = 0  # completed epochs
    update: int = 0  # completed updates of the current epoch
    step: int = 0  # completed updates since the start of the training, whatever an epoch had
    best: float = -1.0  # highest AP or lowest loss of all validations, -1 before the first one
    validation_due: bool = False  # the last completed epoch is not validated yet

    @property
    def position(self) -> int:
        """The update in the schedule of the learning rate, which counts epochs of the present length."""
        return self.epoch * self.updates_per_epoch + self.update

    @property
    def epoch_is_over(self) -> bool:
        return self.update == self.updates_per_epoch

    def improves(self, value: float) -> bool:
        """Whether the AP or loss of a validation is better than `best`. -1 and NaN are not."""
        if self.metric == LOSS:
            return 0 <= value < (self.best if self.best >= 0 else float("inf"))
        return value > self.best

    def next_update(self) -> None:
        """Count an update as completed."""
        self.update, self.step = self.update + 1, self.step + 1

    def next_epoch(self) -> None:
        """Count the current epoch as completed and start the next one."""
        self.epoch, self.update = self.epoch + 1, 0


def metric_of_best(config: Mapping[str, Any]) -> str:
    """The metric of `best` in a configuration as plain values, which may be of an earlier version."""
    if config["train"].get("validation", ["ap"])[0] == "loss":
        return LOSS
    return str(config["dataset"]["metric"])
