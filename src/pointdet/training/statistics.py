# SPDX-License-Identifier: Apache-2.0
"""The running statistics of batch normalisation over several ranks."""

from __future__ import annotations

from collections.abc import Mapping

import nnabla as nn

from pointdet.ranks import Ranks


def average_over_ranks(
    ranks: Ranks, parameters: Mapping[str, nn.Variable], averages: Mapping[str, nn.NdArray]
) -> None:
    """Replace the running statistics by their mean over the ranks. Every rank must call it.

    During training each rank updates them on its own images, so they differ between ranks. `averages`: the
    moving average of the parameters; its running statistics are averaged too. It may be empty.
    """
    if ranks.size == 1:
        return
    names = [name for name, parameter in parameters.items() if not parameter.need_grad]
    arrays = [parameters[name].data for name in names]
    arrays += [averages[name] for name in names if name in averages]
    ranks.all_reduce(arrays)
    for array in arrays:
        array.data[...] /= ranks.size
