# SPDX-License-Identifier: Apache-2.0
"""Hourglass networks of the official CenterNet, CornerNet and CenterNet with triplets, which name their trunk alike."""

from __future__ import annotations

from pointdet.weights.naming.names import Rules, named, pair

BRANCHES = {"up1": "skip", "low1": "down", "low3": "up"}


def trunk(levels: int) -> Rules:
    """Of hourglasses that halve their map `levels` times, 5 in the published ones, each inside the one before."""
    inwards = ["low2." * level for level in range(levels + 1)]
    return (
        *named("pre.0", "conv1"),
        *_residual("pre.1", "res1"),
        *(
            rule
            for level in range(levels)
            for theirs, ours in BRANCHES.items()
            for rule in _residual(
                f"kps.{{s}}.{inwards[level]}{theirs}.{{u}}",
                f"stack{{s+1}}/level{level + 1}/{ours}/layer{{u+1}}",
            )
        ),
        # The innermost has no branches: it is the bottom.
        *_residual(f"kps.{{s}}.{inwards[levels]}{{u}}", "stack{s+1}/bottom/layer{u+1}"),
        *named("cnvs.{s}", "stack{s+1}/feature"),
        *pair("inters_.{s}", "stack{s+2}/merge/input"),
        *pair("cnvs_.{s}", "stack{s+2}/merge/feature"),
        *_residual("inters.{s}", "stack{s+2}/merge"),
    )


def _residual(theirs: str, ours: str) -> Rules:
    return (
        (f"{theirs}.conv{{k}}", f"{ours}/basicblock{{k}}/conv"),
        (f"{theirs}.bn{{k}}", f"{ours}/basicblock{{k}}/bn"),
        *pair(f"{theirs}.skip", f"{ours}/basicblock_s/shortcut_conv"),
    )
