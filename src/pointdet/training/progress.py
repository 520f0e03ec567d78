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
    best: float = -1.0  # highest AP of all validations, -1 before the first one

    @property
    def step(self) -> int:
        """Completed updates since the start of the training."""
        return self.epoch * self.updates_per_epoch + self.update

    @property
    def epoch_is_over(self) -> bool:
        return self.update == self.updates_per_epoch

    def next_epoch(self) -> None:
        """Count the current epoch as completed and start the next one."""
        self.epoch, self.update = self.epoch + 1, 0
