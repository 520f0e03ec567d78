# SPDX-License-Identifier: Apache-2.0
"""Exchanged size and offset heads, as in the parameter files (.h5) published for NNabla's CenterNet example."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np

from pointdet.arrays import Arrays
from pointdet.errors import PointDetError

SwapHeads = Literal["ask", "yes", "no"]
HEAD = re.compile(r"(?<![^/])(reg|wh)_")  # at the start of our path, or of its part below a stack
LAST = re.compile(r"(?<![^/])(reg|wh)_final/conv/[Wb]$")


def unswapped(arrays: Arrays, path: Path, swap_heads: SwapHeads) -> Arrays:
    """The arrays of the file `path`, by our paths, with the size and offset heads under their own names.

    Errors: PointDetError if the heads seem to be exchanged and `swap_heads` is "ask".
    """
    if swap_heads == "ask" and heads_look_swapped(arrays):
        raise PointDetError(
            f"the size and offset heads of {path} seem to be exchanged, as in the NNabla example's files before "
            "February 2023; "
            "add --swap_heads yes to exchange them, or --swap_heads no to load it unchanged"
        )
    return with_swapped_heads(arrays) if swap_heads == "yes" else arrays


def with_swapped_heads(arrays: Arrays) -> Arrays:
    """The arrays with the size and offset heads exchanged.

    Until February 2023 the example stored its heads in one order and read them in another. In files of that
    time ``reg_*`` is the size head and ``wh_*`` the offset head.
    """
    other = {"reg": "wh_", "wh": "reg_"}
    return {HEAD.sub(lambda found: other[found[1]], name): array for name, array in arrays.items()}


def heads_look_swapped(arrays: Arrays) -> bool:
    """Whether the weights and biases of the offset head's last layer are larger than those of the size head.

    In a trained network they are smaller, because offsets are in [0, 1) and sizes are several cells. With several
    stacks it is the sum over their heads.
    """
    layers = {name: found[1] for name in arrays if (found := LAST.search(name))}
    if len(layers) < 4 or list(layers.values()).count("reg") * 2 != len(layers):  # W and b of both heads
        return False
    sums = {"reg": 0.0, "wh": 0.0}
    for name, head in layers.items():
        sums[head] += float(np.abs(arrays[name]).sum(dtype=np.float64))
    return sums["reg"] > 2 * sums["wh"]
