# SPDX-License-Identifier: Apache-2.0
"""What one must know of the parameter files published for NNabla's CenterNet example (.h5)."""

from __future__ import annotations

import numpy as np

from pointdet.weights.h5_file import Arrays


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
