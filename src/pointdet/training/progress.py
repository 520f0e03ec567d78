# SPDX-License-Identifier: Apache-2.0
"""The progress of a training: completed epochs and updates, and the best AP."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Progress:
    """Counts completed updates and epochs. The numbers are the same on all ranks."""

    updates_per_epoch: int
    metric: str  # dataset.metric, the metric of `best`
    epoch: int = 0  # completed epochs
    update: int = 0  # completed updates of the current epoch
    step: int = 0  # completed updates since the start of the training, whatever an epoch had
    best: float = -1.0  # highest AP of all validations, -1 before the first one
    validation_due: bool = False  # the last completed epoch is not validated yet

    @property
    def position(self) -> int:
        """The update in the schedule of the learning rate, which counts epochs of the present length."""
        return self.epoch * self.updates_per_epoch + self.update

    @property
    def epoch_is_over(self) -> bool:
        return self.update == self.updates_per_epoch

    def next_update(self) -> None:
        """Count an update as completed."""
        self.update, self.step = self.update + 1, self.step + 1

    def next_epoch(self) -> None:
        """Count the current epoch as completed and start the next one."""
        self.epoch, self.update = self.epoch + 1, 0
