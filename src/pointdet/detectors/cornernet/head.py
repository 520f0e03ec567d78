# SPDX-License-Identifier: Apache-2.0
"""Feature map -> corner pooling -> heatmap, tag and offset of two corners (Law and Deng, 2018, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import nnabla as nn

from pointdet.detectors.common.branches import HEATMAP_BIAS, Branch, predict
from pointdet.detectors.cornernet.codec import CORNERS
from pointdet.ops.layers import add, conv_norm, uniform_in
from pointdet.ops.mode import Mode
from pointdet.ops.pooling import Direction, corner_pool

# Corner -> the two directions of its corner pooling.
DIRECTIONS: dict[str, tuple[Direction, Direction]] = {
    "top_left": ("top", "left"),
    "bottom_right": ("bottom", "right"),
}


@dataclass(frozen=True)
class CornerNetHead:
    """Each corner has its own parameters, below top_left/ and bottom_right/."""

    num_classes: int
    pooling_channels: int
    channels: int  # of the 3x3 convolution of each branch
    heatmaps: tuple[str, ...] = tuple(f"{corner}_heatmap" for corner in CORNERS)
    class_bias: str = "top_left/heatmap_final/conv/b"

    def __call__(self, feature: nn.Variable, mode: Mode) -> dict[str, nn.Variable]:
        """For each corner: logits (B, C, h, w), tags (B, 1, h, w), x and y of the offset (B, 2, h, w)."""
        outputs: dict[str, nn.Variable] = {}
        for corner in CORNERS:
            with nn.parameter_scope(corner):
                channels = self.pooling_channels
                pooled = corner_pooling(feature, DIRECTIONS[corner], channels, channels // 2, mode)
                branches = corner_branches(corner, self.num_classes)
                outputs |= predict(pooled, branches, self.channels, mode)
        return outputs


def corner_branches(corner: str, num_classes: int) -> dict[str, Branch]:
    """The outputs for one kind of corner."""
    return {
        f"{corner}_heatmap": Branch("heatmap", num_classes, bias=HEATMAP_BIAS),
        f"{corner}_tag": Branch("tag", 1),
        f"{corner}_offset": Branch("offset", 2),
    }


def corner_pooling(
    x: nn.Variable, directions: tuple[Direction, Direction], channels: int, pooled_channels: int, mode: Mode
) -> nn.Variable:
    """Corner pooling module: feature map -> map of `channels` (section 3.3, figure 7)."""
    pooled = []
    for scope, direction in zip(("vertical", "horizontal"), directions, strict=True):
        with nn.parameter_scope(scope):
            h = conv_norm(x, pooled_channels, 3, mode, init=uniform_in)
        pooled.append(corner_pool(h, direction, mode))
    return add_shortcut(x, add(pooled[0], pooled[1], mode), channels, mode)


def add_shortcut(x: nn.Variable, pooled: nn.Variable, channels: int, mode: Mode) -> nn.Variable:
    """The last layers of every pooling module: the pooled map plus a projection of the feature map x."""
    with nn.parameter_scope("shortcut"):
        shortcut = conv_norm(x, channels, 1, mode, init=uniform_in, relu=False)
    with nn.parameter_scope("pooled"):
        h = conv_norm(pooled, channels, 3, mode, init=uniform_in, shortcut=shortcut)
    with nn.parameter_scope("feature"):
        return conv_norm(h, channels, 3, mode, init=uniform_in)
