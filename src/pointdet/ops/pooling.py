# SPDX-License-Identifier: Apache-2.0
"""Corner pools (Law and Deng, 2018, section 3.3) and pools of whole lines from NNabla's own functions: any size, layout and device.

`top` looks from each cell down to the last row, `bottom` up to the first, `left` to the right end, `right` to the
first column; each takes the maximum of what it sees. Of equal values the one farthest away receives the gradient.
"""

from __future__ import annotations

from typing import Literal

import nnabla as nn
import nnabla.functions as F

from pointdet.ops.cpu import pooling
from pointdet.ops.layers import Mode

Direction = Literal["top", "bottom", "left", "right"]


def corner_pool(x: nn.Variable, direction: Direction, mode: Mode) -> nn.Variable:
    """The running maximum of a map (B, C, H, W) or (B, H, W, C) towards `direction`, of the same shape."""
    vertical, from_end = direction in ("top", "bottom"), direction in ("top", "left")
    if mode.through_python:
        return pooling.running_maximum(x, 2 if vertical else 3, from_end)
    axis = (1 if vertical else 2) if mode.channel_last else (2 if vertical else 3)
    size, reach = x.shape[axis], 1
    while (
        reach < size
    ):  # each cell knows the maximum of `reach` cells; twice as many with those of another one
        low, high = _part(x, axis, 0, size - reach), _part(x, axis, reach, size)
        # Of equal inputs NNabla's function gives the second the gradient.
        if from_end:
            x = F.concatenate(F.maximum2(low, high), _part(x, axis, size - reach, size), axis=axis)
        else:
            x = F.concatenate(_part(x, axis, 0, reach), F.maximum2(high, low), axis=axis)
        reach *= 2
    return x


def line_pool(x: nn.Variable, vertical: bool, mode: Mode) -> nn.Variable:
    """The maximum of each column, or row, in all its cells; of the shape of x (Duan et al., 2019, section 3.3)."""
    axis = 2 - mode.channel_last if vertical else 3 - mode.channel_last
    shape = list(x.shape)
    return F.broadcast(F.max(x, axis=axis, keepdims=True), shape)


def _part(x: nn.Variable, axis: int, start: int, stop: int) -> nn.Variable:
    ends = [(start, stop) if a == axis else (0, n) for a, n in enumerate(x.shape)]
    return F.slice(x, start=[e[0] for e in ends], stop=[e[1] for e in ends])
