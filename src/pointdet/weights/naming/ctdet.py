# SPDX-License-Identifier: Apache-2.0
"""Names of the heads of official CenterNet ("Objects as Points")."""

from __future__ import annotations

import numpy as np

from pointdet.arrays import Arrays
from pointdet.weights.naming.names import Rules, per_stack

HEADS = ("hm", "wh", "reg")


def heads(stacks: int) -> Rules:
    """Rules of the heads. stacks: number of hourglasses, or 0 for another backbone."""
    index, scope = per_stack(stacks)
    first, last = ("0.conv", "1") if stacks else ("0", "2")  # names of the two convolutions
    return tuple(
        rule
        for head in HEADS
        for rule in (
            (f"{head}{index}.{first}", f"{scope}{head}_conv1/conv"),
            (f"{head}{index}.{last}", f"{scope}{head}_final/conv"),
        )
    )


def with_centred_offsets(arrays: Arrays) -> Arrays:
    """Add an offset head whose output is 0.5, which official CenterNet uses for networks without one.

    arrays: by our path.
    """
    found = dict(arrays)
    for path, array in arrays.items():
        scope, size, leaf = path.partition("wh_")
        if size:
            found[f"{scope}reg_{leaf}"] = np.zeros(
                (2, *array.shape[1:]) if "final" in leaf else array.shape, np.float32
            )
            if leaf == "final/conv/b":
                found[f"{scope}reg_{leaf}"] += 0.5
    return found
