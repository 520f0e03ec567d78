# SPDX-License-Identifier: Apache-2.0
"""Names of the ImageNet DLA-34 and of official CenterNet's `dlav0_34`, and their order of concatenation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pointdet.arrays import Float32Array
from pointdet.weights.naming.names import Rules, indexed

# Upsampling step -> its part -> our scope.
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

# Scope of a concatenation -> the official indices of its maps, in our order. All other concatenations have
# two maps, which are exchanged.
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
        *indexed(f"{theirs}.project", ours),
    )


def _step(theirs: str, parts: dict[str, str]) -> Rules:
    rules: list[tuple[str, str]] = []
    for part, ours in parts.items():
        rules += indexed(f"{theirs}.{part}", ours)
        if part.startswith("proj"):  # a depthwise deconvolution follows
            rules.append((f"{theirs}.{part.replace('proj', 'up')}", f"{ours}/deconv"))
    return tuple(rules)


TRUNK: Rules = (
    *indexed("base_layer", "conv1"),
    *indexed("level0", "level0/conv1"),
    *indexed("level1", "level1/conv1"),
    *(rule for level in (2, 5) for rule in _tree(f"level{level}", f"level{level}")),
    # The published levels 3 and 4 also have a projection whose output is not used.
    *(rule for level in (3, 4) for rule in _tree(f"level{level}.tree{{n}}", f"level{level}/node{{n}}")),
)
NECK: Rules = tuple(rule for step, parts in STEPS.items() for rule in _step(f"dla_up.{step}", parts))


def is_root_kernel(path: str) -> bool:
    """Whether the parameter is the kernel of a root node, whose input is a concatenation of maps."""
    return path.endswith("root/conv/W")


def input_order(name: str, weight: Float32Array) -> npt.NDArray[np.intp]:
    """The official index of each of our input channels, for the kernel `name` of shape (out, in, k, k).

    ours = official[:, order] and official = ours[:, np.argsort(order)].
    """
    out, channels = weight.shape[:2]
    if not is_root_kernel(name):
        return np.arange(channels)
    order = ORDERS.get(name.removesuffix("/conv/W"), (1, 0))
    widths = (out, out, out // 2, out)[: len(order)]  # second block, first block, input, inner tree
    maps = np.split(np.arange(channels), np.cumsum(widths)[:-1])
    return np.concatenate([maps[i] for i in order])
