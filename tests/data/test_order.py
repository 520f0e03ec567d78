# SPDX-License-Identifier: Apache-2.0
"""Each image once per epoch, whatever the ranks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pointdet.data.order import Order, sample_rng


def update(order: Order, epoch: int, number: int) -> list[tuple[int, float]]:
    """(image, weight) of one update of one rank."""
    permutation = order.permutation(epoch)
    first = number * order.accumulate
    batches = [order.batch(permutation, first + step) for step in range(order.accumulate)]
    return [
        pair for images, weights in batches for pair in zip(images.tolist(), weights.tolist(), strict=True)
    ]


@pytest.mark.parametrize("count", [1, 7, 12, 13, 100])
@pytest.mark.parametrize(
    ("batch_size", "size", "accumulate"), [(12, 1, 1), (6, 2, 1), (3, 2, 2), (1, 4, 3), (4, 1, 3)]
)
def test_each_image_counts_once(count: int, batch_size: int, size: int, accumulate: int) -> None:
    orders = [Order(count, batch_size, 3, rank, size, accumulate) for rank in range(size)]
    assert {order.iterations for order in orders} == {-(-count // 12) * accumulate}
    updates = orders[0].iterations // accumulate
    pairs = [pair for order in orders for number in range(updates) for pair in update(order, 5, number)]
    assert len(pairs) == 12 * updates
    assert Counter(image for image, weight in pairs if weight) == Counter(range(count))
    assert {weight for _, weight in pairs} <= {0.0, 1.0}


@pytest.mark.parametrize(("batch_size", "size", "accumulate"), [(6, 2, 1), (3, 2, 2), (1, 4, 3), (4, 1, 3)])
def test_an_update_is_the_same_for_any_number_of_ranks(batch_size: int, size: int, accumulate: int) -> None:
    alone = Order(31, 12, 3)
    orders = [Order(31, batch_size, 3, rank, size, accumulate) for rank in range(size)]
    for number in range(3):
        joined = sorted(pair for order in orders for pair in update(order, 1, number))
        assert joined == sorted(update(alone, 1, number))


def test_the_last_batch_is_shared_fairly() -> None:
    orders = [Order(10, 2, 0, rank, 2, 2) for rank in range(2)]
    assert [sum(weight for _, weight in update(order, 0, 1)) for order in orders] == [1, 1]


def test_epochs_and_seeds_differ_and_repeat() -> None:
    def shuffled(seed: int, epoch: int) -> list[int]:
        return list(Order(50, 4, seed).permutation(epoch).tolist())

    assert shuffled(0, 0) == shuffled(0, 0)
    assert len({tuple(shuffled(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_chance_belongs_to_seed_epoch_and_image() -> None:
    keys = [(seed, epoch, index) for seed in (0, 1) for epoch in (0, 1) for index in (0, 1)]
    draws = {key: sample_rng(*key).random() for key in keys}
    assert len(set(draws.values())) == len(keys)
    assert sample_rng(1, 0, 1).random() == draws[1, 0, 1]
    # The permutation's stream is nobody else's.
    assert sample_rng(0, 0, 0).random() != np.random.default_rng([0, 0]).random()
