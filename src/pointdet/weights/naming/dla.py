# SPDX-License-Identifier: Apache-2.0
"""The names of the ImageNet DLA-34 and of official CenterNet's `dlav0_34`, and the order in which they join maps."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pointdet.weights.naming.names import Rules, pair

# Steps of the upsampling and their parts -> our scopes.
STEPS = {
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


def _tree(theirs: str, ours: str) -> Rules:
    return (
        (f"{theirs}.tree{{b}}.conv{{k}}", f"{ours}/block{{b}}/basicblock{{k}}/conv"),
        (f"{theirs}.tree{{b}}.bn{{k}}", f"{ours}/block{{b}}/basicblock{{k}}/bn"),
        (f"{theirs}.root.conv", f"{ours}/root/conv"),
        (f"{theirs}.root.bn", f"{ours}/root/bn"),
        *pair(f"{theirs}.project", ours),
    )


def _step(theirs: str, parts: dict[str, str]) -> Rules:
    rules: list[tuple[str, str]] = []
    for part, ours in parts.items():
        rules += pair(f"{theirs}.{part}", ours)
        if part.startswith("proj"):  # a depthwise deconvolution follows
            rules.append((f"{theirs}.{part.replace('proj', 'up')}", f"{ours}/deconv"))
    return tuple(rules)


TRUNK: Rules = (
    *pair("base_layer", "conv1"),
    *pair("level0", "level0/conv1"),
    *pair("level1", "level1/conv1"),
    *(rule for level in (2, 5) for rule in _tree(f"level{level}", f"level{level}")),
    # They also have projections of their own, which are computed but not used.
    *(rule for level in (3, 4) for rule in _tree(f"level{level}.tree{{n}}", f"level{level}/node{{n}}")),
)
NECK: Rules = tuple(rule for step, parts in STEPS.items() for rule in _step(f"dla_up.{step}", parts))


def joins(path: str) -> bool:
    """Whether the parameter is a kernel that reads joined maps."""
    return path.endswith("root/conv/W")


def input_order(name: str, weight: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """Which official input channel each of ours is, of the kernel `name` (out, in, k, k), in whichever order.

    ours = official[:, order] and official = ours[:, np.argsort(order)].
    """
    out, channels = weight.shape[:2]
    if not joins(name):
        return np.arange(channels)
    order = ORDERS.get(name.removesuffix("/conv/W"), (1, 0))
    widths = (out, out, out // 2, out)[: len(order)]  # the second block, the first, the input, the inner tree
    maps = np.split(np.arange(channels), np.cumsum(widths)[:-1])
    return np.concatenate([maps[i] for i in order])
