# SPDX-License-Identifier: Apache-2.0
"""The limit of the size of maps on a GPU."""

import nnabla as nn
import nnabla.functions as F
import pytest

from pointdet.errors import PointDetError
from pointdet.ops.map_sizes import MAX_VALUES, check_map_sizes


def test_the_largest_map_is_named():
    x = nn.Variable((2, 3, 4, 4))  # 96 values; inside the graph 192
    wide = F.concatenate(x, x, axis=1)
    outputs = [F.sum(wide), F.identity(x)]
    check_map_sizes(outputs, 192)
    with pytest.raises(
        PointDetError, match=r"a map of 2 x 6 x 4 x 4 values is too large .*at most 191\); lower"
    ):
        check_map_sizes(outputs, 191)


def test_the_limit():
    """A counter of 32 bits does not overflow when the last step of the loop is added."""
    assert MAX_VALUES - 1 + 65536 * 512 < 2**31 <= MAX_VALUES + 65536 * 512
