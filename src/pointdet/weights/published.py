# SPDX-License-Identifier: Apache-2.0
"""Exchanged heads in the parameter files (.h5) that were published for NNabla's CenterNet example."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from pointdet.arrays import Arrays
from pointdet.errors import PointDetError

SwapHeads = Literal["ask", "yes", "no"]


def unswapped(arrays: Arrays, path: Path, swap_heads: SwapHeads) -> Arrays:
    """The arrays of the file `path` with the size and offset heads under their own names.

    Errors: PointDetError if the heads seem to be exchanged and `swap_heads` is "ask".
    """
    if swap_heads == "ask" and heads_look_swapped(arrays):
        raise PointDetError(
            f"the size and offset heads of {path} seem to be exchanged, as in files before February 2023; "
            "add --swap_heads yes to exchange them, or --swap_heads no to load it unchanged"
        )
    return with_swapped_heads(arrays) if swap_heads == "yes" else arrays


def with_swapped_heads(arrays: Arrays) -> Arrays:
    """The arrays with the size and offset heads exchanged.

    Until February 2023 the example stored its heads in one order and read them in another. In files of that
    time ``reg_*`` is the size head and ``wh_*`` the offset head.
    """
    other = {"reg_": "wh_", "wh_": "reg_"}
    swapped: Arrays = {}
    for name, array in arrays.items():
        prefix = next((p for p in other if name.startswith(p)), None)
        swapped[other[prefix] + name.removeprefix(prefix) if prefix else name] = array
    return swapped


def heads_look_swapped(arrays: Arrays) -> bool:
    """Whether the weights and biases of the offset head's last layer are larger than those of the size head.

    In a trained network they are smaller, because offsets are in [0, 1) and sizes are several cells.
    """
    if not {"reg_final/conv/W", "reg_final/conv/b", "wh_final/conv/W", "wh_final/conv/b"} <= set(arrays):
        return False
    offset, size = (
        float(np.abs(arrays[f"{h}_final/conv/W"]).sum() + np.abs(arrays[f"{h}_final/conv/b"]).sum())
        for h in ("reg", "wh")
    )
    return offset > 2 * size
