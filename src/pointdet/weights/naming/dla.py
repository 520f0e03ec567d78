# SPDX-License-Identifier: Apache-2.0
"""The names of the ImageNet DLA-34 and of official CenterNet's `dlav0_34`, and the order in which they join maps."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pointdet.weights.naming import ctdet
from pointdet.weights.naming.leaves import path

# Step of the upsampling and its parts -> our scopes.
NECK = {
    "ida_0": {"proj_1": "up16/up", "node_1": "up8/root"},
    "ida_1": {
        "proj_1": "up4/residual_level3/up",
        "proj_2": "up8/up",
        "node_1": "up4/residual_level3/level3up_root/root",
        "node_2": "up4/residual_level3/x_root/root",
    },
    "ida_2": {
        "proj_1": "up2_c/up",
        "proj_2": "up2_b/up",
        "proj_3": "up4/up",
        "node_1": "up2_c/level3up_c_root/root",
        "node_2": "up2_c/level2up_root/root",
        "node_3": "up2_c/x_root/root",
    },
}

# Joined maps, counted in the official order, in ours. Of all other joins the two maps are exchanged.
ORDERS = {
    "level3/node2/root": (1, 3, 0, 2),
    "level4/node2/root": (1, 3, 0, 2),
    "level5/root": (1, 2, 0),
    "up2_c/level3up_c_root/root": (0, 1),
}


def our_name(key: str) -> str | None:
    """Published key -> our path; None for what has no counterpart.

    That is the classifier, and the projections of levels 3 and 4, which are computed there but not used.
    """
    match key.removeprefix("base.").split("."):
        case ["base_layer", place, leaf]:
            return path("conv1", place, leaf)
        case ["level0" | "level1" as level, place, leaf]:
            return path(f"{level}/conv1", place, leaf)
        case ["level2" | "level5" as level, *rest]:
            return _in_tree(level, rest)
        case ["level3" | "level4" as level, "tree1" | "tree2" as tree, *rest]:
            return _in_tree(f"{level}/node{tree[-1]}", rest)
        case ["dla_up", step, part, *rest]:
            return _in_neck(NECK[step], part, rest)
    return ctdet.our_name(key)


def input_order(name: str, weight: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """Which official input channel each of ours is, of the kernel `name` (out, in, k, k), in whichever order.

    ours = official[:, order] and official = ours[:, np.argsort(order)].
    """
    out, channels = weight.shape[:2]
    scope = name.removesuffix("/conv/W")
    if not scope.endswith("root"):
        return np.arange(channels)
    order = ORDERS.get(scope, (1, 0))
    widths = (out, out, out // 2, out)[: len(order)]  # the second block, the first, the input, the inner tree
    maps = np.split(np.arange(channels), np.cumsum(widths)[:-1])
    return np.concatenate([maps[i] for i in order])


def _in_tree(scope: str, rest: list[str]) -> str | None:
    match rest:
        case ["project", place, leaf]:
            return path(scope, place, leaf)
        case ["root", layer, leaf]:
            return path(f"{scope}/root", layer, leaf)
        case ["tree1" | "tree2" as tree, layer, leaf]:
            return path(f"{scope}/block{tree[-1]}/basicblock{layer[-1]}", layer, leaf)
    return None


def _in_neck(scopes: dict[str, str], part: str, rest: list[str]) -> str | None:
    match rest:
        case [_]:  # the depthwise deconvolution behind a projection
            return f"{scopes[part.replace('up', 'proj')]}/deconv/W"
        case [place, leaf]:
            return path(scopes[part], place, leaf)
    return None
