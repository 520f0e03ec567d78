# SPDX-License-Identifier: Apache-2.0
"""What one must know of the parameter files published for NNabla's CenterNet example (.h5)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from pointdet.errors import PointDetError
from pointdet.weights.h5_file import Arrays

SwapHeads = Literal["ask", "yes", "no"]


def unswapped(arrays: Arrays, path: Path, swap_heads: SwapHeads) -> Arrays:
    """The arrays of the file `path` with every head under its own name.

    Errors: PointDetError where two heads look exchanged and nobody said what to do.
    """
    if swap_heads == "ask" and heads_look_swapped(arrays):
        raise PointDetError(
            f"{path} seems to hold its size and offset heads exchanged, as files older than February 2023 do; add "
            "--swap_heads yes to exchange them, or --swap_heads no to load it as it is"
        )
    return with_swapped_heads(arrays) if swap_heads == "yes" else arrays


def with_swapped_heads(arrays: Arrays) -> Arrays:
    """The arrays with the size and offset heads exchanged.

    Until February 2023 the example stored its heads in one order and read them in another, so that the file's
    ``reg_*`` holds the size and ``wh_*`` the offset.
    """
    other = {"reg_": "wh_", "wh_": "reg_"}
    swapped: Arrays = {}
    for name, array in arrays.items():
        prefix = next((p for p in other if name.startswith(p)), None)
        swapped[other[prefix] + name.removeprefix(prefix) if prefix else name] = array
    return swapped


def heads_look_swapped(arrays: Arrays) -> bool:
    """Whether the offset head gives larger numbers than the size head, which a trained network never does.

    Offsets lie in [0, 1), sizes are several cells; the weights and biases of the last layers show it.
    """
    if not {"reg_final/conv/W", "reg_final/conv/b", "wh_final/conv/W", "wh_final/conv/b"} <= set(arrays):
        return False
    offset, size = (
        float(np.abs(arrays[f"{h}_final/conv/W"]).sum() + np.abs(arrays[f"{h}_final/conv/b"]).sum())
        for h in ("reg", "wh")
    )
    return offset > 2 * size
