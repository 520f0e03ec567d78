# SPDX-License-Identifier: Apache-2.0
"""CornerNet with hourglasses: the names of the official code, of the "simple" one, and our paths."""

from __future__ import annotations

import re

from pointdet.weights.naming.hourglass import trunk_name
from pointdet.weights.naming.leaves import LEAVES

CORNERS = {"tl": "top_left", "br": "bottom_right"}
# Part of a corner's pooling module -> our scope and the kind of its layer.
POOLING = {
    "p1_conv1.conv": "vertical/conv",
    "p1_conv1.bn": "vertical/bn",
    "p2_conv1.conv": "horizontal/conv",
    "p2_conv1.bn": "horizontal/bn",
    "p_conv1": "pooled/conv",
    "p_bn1": "pooled/bn",
    "conv1": "shortcut/conv",
    "bn1": "shortcut/bn",
    "conv2.conv": "feature/conv",
    "conv2.bn": "feature/bn",
}
BRANCHES = {
    "heats": "heatmap", "tags": "tag", "regrs": "offset",  # official
    "hmap": "heatmap", "embd": "tag", "regs": "offset",  # simple
}  # fmt: skip

MODULE = re.compile(r"(?:(tl|br)_cnvs|cnvs_(tl|br))\.(\d)\.(.+)\.(\w+)")
HEAD = re.compile(
    r"(?:(tl|br)_(heats|tags|regrs)|(hmap|embd|regs)_(tl|br))\.(\d)\.(0\.conv|1)\.(weight|bias)"
)


def our_name(key: str, stacks: int) -> str | None:
    """The path of a parameter of a CornerNet of `stacks` hourglasses; None where there is no counterpart."""
    bare = key.removeprefix("module.")
    if found := MODULE.fullmatch(bare):
        before, after, stack, layer, leaf = found.groups()
        part = POOLING[layer]
        ours = LEAVES["bn" if part.endswith("bn") else "conv"].get(leaf)
        return f"{scope(stack, stacks)}{CORNERS[before or after]}/{part}/{ours}" if ours else None
    if found := HEAD.fullmatch(bare):
        corner, kind, simple_kind, simple_corner, stack, layer, leaf = found.groups()
        part = "conv1" if layer == "0.conv" else "final"
        branch = f"{CORNERS[corner or simple_corner]}/{BRANCHES[kind or simple_kind]}_{part}"
        return f"{scope(stack, stacks)}{branch}/conv/{LEAVES['conv'][leaf]}"
    return trunk_name(key)


def scope(stack: str, stacks: int) -> str:
    """Heads of a single stack have no scope of their own."""
    return f"stack{int(stack) + 1}/" if stacks > 1 else ""
