# SPDX-License-Identifier: Apache-2.0
"""The heads of official CenterNet ("objects as points")."""

from __future__ import annotations

from pointdet.weights.naming.names import Rules, per_stack

HEADS = ("hm", "wh", "reg")


def heads(stacks: int) -> Rules:
    """Behind an hourglass of so many stacks, or behind another backbone (0), where the layers are counted otherwise."""
    index, scope = per_stack(stacks)
    first, last = ("0.conv", "1") if stacks else ("0", "2")
    return tuple(
        rule
        for head in HEADS
        for rule in (
            (f"{head}{index}.{first}", f"{scope}{head}_conv1/conv"),
            (f"{head}{index}.{last}", f"{scope}{head}_final/conv"),
        )
    )
