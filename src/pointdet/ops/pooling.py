# SPDX-License-Identifier: Apache-2.0
"""Corner pooling (Law and Deng, 2018, section 3.3) and pooling of rows and columns.

It works for every size, layout and device. `top` takes at each cell the maximum of the cells from it down to
the last row, `bottom` up to the first row, `left` to the last column and `right` to the first column. Among
equal values the farthest one receives the gradient. In training only the input of a corner pool is kept for the
backward pass.
"""

from __future__ import annotations

from typing import Literal

import nnabla as nn
import nnabla.functions as F

from pointdet.ops.checkpoint import checkpoint
from pointdet.ops.cpu import pooling
from pointdet.ops.mode import Mode

Direction = Literal["top", "bottom", "left", "right"]


def corner_pool(x: nn.Variable, direction: Direction, mode: Mode) -> nn.Variable:
    """Corner pooling of a map (B, C, H, W) or (B, H, W, C). The output has the same shape."""
    vertical, from_end = direction in ("top", "bottom"), direction in ("top", "left")
    axis = mode.row_axis if vertical else mode.row_axis + 1
    if mode.through_python:
        return pooling.running_maximum(x, axis, from_end)
    if mode.training and x.shape[axis] > 1:
        return checkpoint(lambda x: _running_maximum(x, axis, from_end), x)
    return _running_maximum(x, axis, from_end)


def _running_maximum(x: nn.Variable, axis: int, from_end: bool) -> nn.Variable:
    size, reach = x.shape[axis], 1
    while reach < size:  # each value is the maximum of `reach` cells; every step doubles this number
        low, high = _part(x, axis, 0, size - reach), _part(x, axis, reach, size)
        # If its inputs are equal, F.maximum2 gives the gradient to the second.
        if from_end:
            x = F.concatenate(F.maximum2(low, high), _part(x, axis, size - reach, size), axis=axis)
        else:
            x = F.concatenate(_part(x, axis, 0, reach), F.maximum2(high, low), axis=axis)
        reach *= 2
    return x


def line_pool(x: nn.Variable, vertical: bool, mode: Mode) -> nn.Variable:
    """Each cell becomes the maximum of its column, or of its row (Duan et al., 2019, section 3.3)."""
    axis = mode.row_axis if vertical else mode.row_axis + 1
    shape = list(x.shape)
    return F.broadcast(F.max(x, axis=axis, keepdims=True), shape)


def _part(x: nn.Variable, axis: int, start: int, stop: int) -> nn.Variable:
    ends = [(start, stop) if a == axis else (0, n) for a, n in enumerate(x.shape)]
    return F.slice(x, start=[e[0] for e in ends], stop=[e[1] for e in ends])
