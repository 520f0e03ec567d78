# SPDX-License-Identifier: Apache-2.0
"""The running statistics of batch normalisation over several ranks.

Each rank updates them on its own images, so they differ between ranks. A validation and a checkpoint use their
mean. The training goes on with the own statistics of each rank, so it does not depend on when a checkpoint was
written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import nnabla as nn

from pointdet.ranks.base import Ranks


@contextmanager
def averaged_over_ranks(ranks: Ranks, statistics: Sequence[nn.NdArray]) -> Iterator[None]:
    """Replace `statistics` by their mean over the ranks within the block. Every rank must call it."""
    if ranks.size == 1:
        yield
        return
    own = [array.data.copy() for array in statistics]
    ranks.all_reduce(statistics)
    for array in statistics:
        array.data[...] /= ranks.size
    try:
        yield
    finally:
        for array, values in zip(statistics, own, strict=True):
            array.data = values
