# SPDX-License-Identifier: Apache-2.0
"""Which image goes into which batch of which rank: a function of seed, epoch and iteration alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Order:
    """Deals every image exactly once per epoch.

    One update takes batch_size * size * accumulate images of the epoch's permutation. They are dealt out one by
    one, so the set of an update does not depend on how many ranks share it. The last update is filled up from the
    head of the permutation with images of weight 0.
    """

    count: int  # images of the dataset
    batch_size: int  # of one rank and forward pass
    seed: int
    rank: int = 0
    size: int = 1
    accumulate: int = 1

    @property
    def iterations(self) -> int:
        """Batches of one rank and epoch; a multiple of accumulate."""
        return -(-self.count // (self.batch_size * self.size * self.accumulate)) * self.accumulate

    def permutation(self, epoch: int) -> npt.NDArray[np.int64]:
        """(count,)"""
        return np.random.default_rng([self.seed, epoch]).permutation(self.count)

    def batch(
        self, permutation: npt.NDArray[np.int64], iteration: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Image indices and weights, both (batch_size,)."""
        update, forward_pass = divmod(iteration, self.accumulate)
        rows = np.arange(self.batch_size)
        place = ((update * self.batch_size + rows) * self.accumulate + forward_pass) * self.size + self.rank
        return permutation[place % self.count], (place < self.count).astype(np.float32)


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The chance of one image in one epoch."""
    # + 1: NumPy takes [seed, epoch, 0] for [seed, epoch], the stream of the permutation.
    return np.random.default_rng([seed, epoch, index + 1])
