# SPDX-License-Identifier: Apache-2.0
"""Hourglass networks of the official CenterNet, CornerNet and CenterNet with triplets, which name their trunk alike."""

from __future__ import annotations

import re

from pointdet.weights.naming.leaves import LEAVES

LAYERS = {
    "conv": "conv",
    "bn": "bn",
    "conv1": "basicblock1/conv",
    "bn1": "basicblock1/bn",
    "conv2": "basicblock2/conv",
    "bn2": "basicblock2/bn",
    "skip.0": "basicblock_s/shortcut_conv/conv",
    "skip.1": "basicblock_s/shortcut_conv/bn",
    "0": "conv",
    "1": "bn",
}
BRANCHES = {"up1": "skip", "top": "skip", "low1": "down", "low3": "up"}  # "top" in one CornerNet
MERGES = {"inters": "merge", "inters_": "merge/input", "cnvs_": "merge/feature"}

HEAD = re.compile(r"(hm|wh|reg)\.(\d)\.(0\.conv|1)\.(weight|bias)")
LAYER = re.compile(r"(.+?)\.(conv\d?|bn\d?|skip\.[01]|[01])\.(weight|bias|running_mean|running_var)")
LEVEL = re.compile(r"kps\.(\d)\.((?:low2\.)*)(?:(up1|top|low1|low3)\.)?(\d)")
BETWEEN = re.compile(r"(cnvs|cnvs_|inters|inters_)\.(\d)")


def our_name(key: str) -> str | None:
    """The path of a parameter of the official CenterNet's `hourglass`; None where there is no counterpart."""
    head = HEAD.fullmatch(key.removeprefix("module."))
    if head is None:
        return trunk_name(key)
    name, stack, layer, entry = head.groups()
    part = "conv1" if layer == "0.conv" else "final"
    return f"stack{int(stack) + 1}/{name}_{part}/conv/{LEAVES['conv'][entry]}"


def trunk_name(key: str) -> str | None:
    """The path of a parameter of the backbone; None for those of heads and for counters of batches."""
    found = LAYER.fullmatch(key.removeprefix("module."))
    scope = _scope(found[1]) if found else None
    if found is None or scope is None:
        return None
    layer = LAYERS[found[2]]
    return f"{scope}/{layer}/{LEAVES['bn' if layer.endswith('bn') else 'conv'][found[3]]}"


def _scope(module: str) -> str | None:
    if module in ("pre.0", "pre.1"):
        return {"pre.0": "conv1", "pre.1": "res1"}[module]
    if found := LEVEL.fullmatch(module):
        stack, inwards, branch, unit = found.groups()
        level = inwards.count("low2") + 1
        # The innermost of the nested modules has no branches: it is the bottom.
        place = f"level{level}/{BRANCHES[branch]}" if branch else "bottom"
        return f"stack{int(stack) + 1}/{place}/layer{int(unit) + 1}"
    if found := BETWEEN.fullmatch(module):
        name, stack = found.groups()
        return f"stack{int(stack) + 1}/feature" if name == "cnvs" else f"stack{int(stack) + 2}/{MERGES[name]}"
    return None
