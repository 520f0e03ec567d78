# SPDX-License-Identifier: Apache-2.0
"""Names of the heads of official CenterNet ("Objects as Points")."""

from __future__ import annotations

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
