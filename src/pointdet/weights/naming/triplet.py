# SPDX-License-Identifier: Apache-2.0
"""Names of the heads of CenterNet with keypoint triplets, and of the backbone of its HRNet fork."""

from __future__ import annotations

from pointdet.weights.naming import hrnet
from pointdet.weights.naming.cornernet import BRANCHES, branch, pooling
from pointdet.weights.naming.names import Rules, named, per_stack

KEYPOINTS = {"tl": "top_left", "br": "bottom_right", "ct": "centre"}

# In the fork the layers of the stem have numbers.
HRNET: Rules = (
    ("pre.0", "conv1/conv"),
    ("pre.1", "conv1/bn"),
    ("pre.2", "conv2/conv"),
    ("pre.3", "conv2/bn"),
    *hrnet.STAGES,
)


def heads(stacks: int) -> Rules:
    """Rules of the heads. stacks: number of hourglasses, or 0 for another backbone. Centres have no tag."""
    index, scope = per_stack(stacks)
    rules: list[tuple[str, str]] = []
    for short, keypoint in KEYPOINTS.items():
        ours = f"{scope}{keypoint}"
        rules += pooling(f"{short}_cnvs{index}", ours)
        if short != "ct":
            rules += _cascade(f"{short}_cnvs{index}", ours)
        for theirs, name in BRANCHES.items():
            if (short, name) != ("ct", "tag"):
                rules += branch(f"{short}_{theirs}{index}", f"{ours}/{name}")
    return tuple(rules)


def _cascade(theirs: str, ours: str) -> Rules:
    """Rules of the additional layers of cascade corner pooling (Duan et al., 2019, section 3.3)."""
    return (
        *named(f"{theirs}.look_conv1", f"{ours}/vertical_look"),
        *named(f"{theirs}.look_conv2", f"{ours}/horizontal_look"),
        (f"{theirs}.P1_look_conv", f"{ours}/vertical_joined/conv"),
        (f"{theirs}.P2_look_conv", f"{ours}/horizontal_joined/conv"),
    )
