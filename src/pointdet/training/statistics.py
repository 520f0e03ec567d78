# SPDX-License-Identifier: Apache-2.0
"""The running statistics of batch normalisation over several ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import nnabla as nn

from pointdet.ranks.base import Ranks


def average_over_ranks(
    ranks: Ranks, parameters: Mapping[str, nn.Variable], averages: Sequence[nn.NdArray]
) -> None:
    """Replace the running statistics by their mean over the ranks. Every rank must call it.

    During training each rank updates them on its own images, so they differ between ranks. `averages`: the
    moving averages of the running statistics, which are averaged too. It may be empty.
    """
    if ranks.size == 1:
        return
    arrays = [parameter.data for parameter in parameters.values() if not parameter.need_grad]
    arrays += averages
    ranks.all_reduce(arrays)
    for array in arrays:
        array.data[...] /= ranks.size
