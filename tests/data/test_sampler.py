# SPDX-License-Identifier: Apache-2.0
"""The sampler: each image once per epoch, for any number of ranks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pointdet.data.sampler import Sampler, sample_rng


def update(sampler: Sampler, epoch: int, number: int) -> list[tuple[int, float]]:
    """(image, weight) pairs of one update of one rank."""
    permutation = sampler.permutation(epoch)
    first = number * sampler.accumulate
    batches = [sampler.batch(permutation, first + step) for step in range(sampler.accumulate)]
    return [
        pair for images, weights in batches for pair in zip(images.tolist(), weights.tolist(), strict=True)
    ]


@pytest.mark.parametrize("count", [1, 7, 12, 13, 100])
@pytest.mark.parametrize(
    ("batch_size", "size", "accumulate"), [(12, 1, 1), (6, 2, 1), (3, 2, 2), (1, 4, 3), (4, 1, 3)]
)
def test_each_image_counts_once(count: int, batch_size: int, size: int, accumulate: int) -> None:
    samplers = [Sampler(count, batch_size, 3, rank, size, accumulate) for rank in range(size)]
    assert {sampler.iterations for sampler in samplers} == {-(-count // 12) * accumulate}
    updates = samplers[0].iterations // accumulate
    pairs = [pair for sampler in samplers for number in range(updates) for pair in update(sampler, 5, number)]
    assert len(pairs) == 12 * updates
    assert Counter(image for image, weight in pairs if weight) == Counter(range(count))
    assert {weight for _, weight in pairs} <= {0.0, 1.0}


@pytest.mark.parametrize(("batch_size", "size", "accumulate"), [(6, 2, 1), (3, 2, 2), (1, 4, 3), (4, 1, 3)])
def test_an_update_is_the_same_for_any_number_of_ranks(batch_size: int, size: int, accumulate: int) -> None:
    single_rank = Sampler(31, 12, 3)
    samplers = [Sampler(31, batch_size, 3, rank, size, accumulate) for rank in range(size)]
    for number in range(3):
        joined = sorted(pair for sampler in samplers for pair in update(sampler, 1, number))
        assert joined == sorted(update(single_rank, 1, number))


def test_the_last_update_is_divided_evenly() -> None:
    samplers = [Sampler(10, 2, 0, rank, 2, 2) for rank in range(2)]
    assert [sum(weight for _, weight in update(sampler, 0, 1)) for sampler in samplers] == [1, 1]


def test_permutation_depends_on_seed_and_epoch_only() -> None:
    def shuffled(seed: int, epoch: int) -> list[int]:
        return list(Sampler(50, 4, seed).permutation(epoch).tolist())

    assert shuffled(0, 0) == shuffled(0, 0)
    assert len({tuple(shuffled(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_sample_rng_depends_on_seed_epoch_and_image() -> None:
    keys = [(seed, epoch, index) for seed in (0, 1) for epoch in (0, 1) for index in (0, 1)]
    draws = {key: sample_rng(*key).random() for key in keys}
    assert len(set(draws.values())) == len(keys)
    assert sample_rng(1, 0, 1).random() == draws[1, 0, 1]
    # The permutation's random stream differs from that of every image.
    assert sample_rng(0, 0, 0).random() != np.random.default_rng([0, 0]).random()
