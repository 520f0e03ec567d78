# SPDX-License-Identifier: Apache-2.0
"""CenterNet with keypoint triplets behind hourglasses: the names of the official code and our paths."""

from __future__ import annotations

import re

from pointdet.weights.naming import cornernet
from pointdet.weights.naming.leaves import LEAVES

KEYPOINTS = cornernet.CORNERS | {"ct": "centre"}
# Beside CornerNet's parts of a pooling module.
POOLING = cornernet.POOLING | {
    "look_conv1.conv": "vertical_look/conv",
    "look_conv1.bn": "vertical_look/bn",
    "look_conv2.conv": "horizontal_look/conv",
    "look_conv2.bn": "horizontal_look/bn",
    "P1_look_conv": "vertical_joined/conv",
    "P2_look_conv": "horizontal_joined/conv",
}

MODULE = re.compile(r"(tl|br|ct)_cnvs\.(\d)\.(.+)\.(\w+)")
CENTRE = re.compile(r"ct_(heats|regrs)\.(\d)\.(0\.conv|1)\.(weight|bias)")


def our_name(key: str, stacks: int) -> str | None:
    """The path of a parameter of a network of `stacks` hourglasses; None where there is no counterpart."""
    bare = key.removeprefix("module.")
    if found := MODULE.fullmatch(bare):
        keypoint, stack, layer, leaf = found.groups()
        part = POOLING[layer]
        ours = LEAVES["bn" if part.endswith("bn") else "conv"].get(leaf)
        return f"{cornernet.scope(stack, stacks)}{KEYPOINTS[keypoint]}/{part}/{ours}" if ours else None
    if found := CENTRE.fullmatch(bare):
        kind, stack, layer, leaf = found.groups()
        part = "conv1" if layer == "0.conv" else "final"
        branch = f"centre/{cornernet.BRANCHES[kind]}_{part}"
        return f"{cornernet.scope(stack, stacks)}{branch}/conv/{LEAVES['conv'][leaf]}"
    return cornernet.our_name(key, stacks)
