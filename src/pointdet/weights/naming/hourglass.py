# SPDX-License-Identifier: Apache-2.0
"""Names of the hourglass networks of official CenterNet, CornerNet and CenterNet with keypoint triplets."""

from __future__ import annotations

from pointdet.weights.naming.names import Rules, indexed, named

BRANCHES = {"up1": "skip", "low1": "down", "low3": "up"}


def trunk(levels: int) -> Rules:
    """Rules of the backbone. levels: how often an hourglass halves its map; 5 in the published networks."""
    nested = ["low2." * level for level in range(levels + 1)]
    return (
        *named("pre.0", "conv1"),
        *_residual("pre.1", "res1"),
        *(
            rule
            for level in range(levels)
            for theirs, ours in BRANCHES.items()
            for rule in _residual(
                f"kps.{{s}}.{nested[level]}{theirs}.{{u}}",
                f"stack{{s+1}}/level{level + 1}/{ours}/layer{{u+1}}",
            )
        ),
        # The innermost level has no branches.
        *_residual(f"kps.{{s}}.{nested[levels]}{{u}}", "stack{s+1}/bottom/layer{u+1}"),
        *named("cnvs.{s}", "stack{s+1}/feature"),
        *indexed("inters_.{s}", "stack{s+2}/merge/input"),
        *indexed("cnvs_.{s}", "stack{s+2}/merge/feature"),
        *_residual("inters.{s}", "stack{s+2}/merge"),
    )


def _residual(theirs: str, ours: str) -> Rules:
    return (
        (f"{theirs}.conv{{k}}", f"{ours}/basicblock{{k}}/conv"),
        (f"{theirs}.bn{{k}}", f"{ours}/basicblock{{k}}/bn"),
        *indexed(f"{theirs}.skip", f"{ours}/basicblock_s/shortcut_conv"),
    )
