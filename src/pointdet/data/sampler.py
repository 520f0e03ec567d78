# SPDX-License-Identifier: Apache-2.0
"""Which image is in which batch of which rank: a function of seed, epoch and iteration only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pointdet.arrays import Float32Array, Int64Array


@dataclass(frozen=True)
class Sampler:
    """Distributed sampler: assigns every image to exactly one rank and batch per epoch.

    One update takes the next batch_size * size * accumulate images of the epoch's permutation. They are
    assigned to the ranks in turn, so the images of an update do not depend on the number of ranks. The last
    update is padded with images from the start of the permutation, whose weight is 0.
    """

    count: int  # images of the dataset
    batch_size: int  # of one rank and forward pass
    seed: int
    rank: int = 0
    size: int = 1  # number of ranks
    accumulate: int = 1  # forward passes per update

    @property
    def iterations(self) -> int:
        """Batches of one rank and epoch; a multiple of accumulate."""
        return -(-self.count // (self.batch_size * self.size * self.accumulate)) * self.accumulate

    def permutation(self, epoch: int) -> Int64Array:
        """(count,): the shuffled image indices of an epoch."""
        return np.random.default_rng([self.seed, epoch]).permutation(self.count)

    def batch(self, permutation: Int64Array, iteration: int) -> tuple[Int64Array, Float32Array]:
        """Image indices and weights, both (batch_size,)."""
        update, forward_pass = divmod(iteration, self.accumulate)
        rows = np.arange(self.batch_size)
        position = (
            (update * self.batch_size + rows) * self.accumulate + forward_pass
        ) * self.size + self.rank
        return permutation[position % self.count], (position < self.count).astype(np.float32)


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random generator for the augmentation of one image in one epoch."""
    # + 1: for NumPy, [seed, epoch, 0] is the same seed as [seed, epoch], which the permutation uses.
    return np.random.default_rng([seed, epoch, index + 1])
