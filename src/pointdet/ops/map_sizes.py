# SPDX-License-Identifier: Apache-2.0
"""The size of the largest map of a graph, which NNabla's CUDA functions limit."""

from __future__ import annotations

import math
from collections.abc import Iterable

import nnabla as nn
import nnabla.functions as F

from pointdet.errors import PointDetError

# Many CUDA functions of NNabla 1.39 (slice, concatenate, transpose, broadcast, sums, pooling) count values with
# 32 bits. The loop over the values adds up to 65536 * 512 to its counter, which must not overflow.
MAX_VALUES = 2**31 - 65536 * 512


def check_map_sizes(outputs: Iterable[nn.Variable], max_values: int = MAX_VALUES) -> None:
    """Check every map that is needed for `outputs`. Errors: PointDetError if one is too large for a GPU."""
    largest: tuple[int, ...] = ()  # its product is 1

    def look(function: nn.function.Function) -> None:
        nonlocal largest
        for variable in function.outputs:
            if variable.size > max(max_values, math.prod(largest)):
                largest = variable.shape

    F.sink(*outputs).visit(look)
    if largest:
        raise PointDetError(
            f"a map of {' x '.join(map(str, largest))} values is too large for NNabla's functions on a GPU (at most "
            f"{max_values}); lower the batch size, or input.height and input.width"
        )
