# SPDX-License-Identifier: Apache-2.0
"""Names of the heads of official CornerNet, and the different names of the "simple" CornerNet."""

from __future__ import annotations

from pointdet.weights.naming.names import Rules, named, per_stack

CORNERS = {"tl": "top_left", "br": "bottom_right"}
BRANCHES = {"heats": "heatmap", "tags": "tag", "regrs": "offset"}

# Replacements in the official names, see Names.renamed. Before 2020 simple CornerNet had the official names.
SIMPLE = (
    (r"\bup1\b", "top"),
    (r"^(tl|br)_cnvs", r"cnvs_\1"),
    (r"^(tl|br)_heats", r"hmap_\1"),
    (r"^(tl|br)_tags", r"embd_\1"),
    (r"^(tl|br)_regrs", r"regs_\1"),
)


def heads(stacks: int) -> Rules:
    """Rules of the heads. stacks: number of hourglasses, or 0 for another backbone."""
    index, scope = per_stack(stacks)
    return tuple(
        rule
        for short, corner in CORNERS.items()
        for rule in (
            *pooling(f"{short}_cnvs{index}", f"{scope}{corner}"),
            *(
                rule
                for theirs, ours in BRANCHES.items()
                for rule in branch(f"{short}_{theirs}{index}", f"{scope}{corner}/{ours}")
            ),
        )
    )


def pooling(theirs: str, ours: str) -> Rules:
    """Rules of the module with two corner pools (Law and Deng, 2018, figure 7)."""
    return (
        *named(f"{theirs}.p1_conv1", f"{ours}/vertical"),
        *named(f"{theirs}.p2_conv1", f"{ours}/horizontal"),
        (f"{theirs}.p_conv1", f"{ours}/pooled/conv"),
        (f"{theirs}.p_bn1", f"{ours}/pooled/bn"),
        (f"{theirs}.conv1", f"{ours}/shortcut/conv"),
        (f"{theirs}.bn1", f"{ours}/shortcut/bn"),
        *named(f"{theirs}.conv2", f"{ours}/feature"),
    )


def branch(theirs: str, ours: str) -> Rules:
    """Rules of one output branch."""
    return (f"{theirs}.0.conv", f"{ours}_conv1/conv"), (f"{theirs}.1", f"{ours}_final/conv")
