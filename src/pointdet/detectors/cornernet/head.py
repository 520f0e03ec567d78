# SPDX-License-Identifier: Apache-2.0
"""Feature map -> heatmap, tag and offset of two corners, each behind corner pooling (Law and Deng, 2018, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import nnabla as nn

from pointdet.detectors.branches import HEATMAP_BIAS, Branch, predict
from pointdet.detectors.cornernet.codec import CORNERS
from pointdet.ops.layers import Mode, conv_norm, uniform_in
from pointdet.ops.pooling import Direction, corner_pool

# Corner -> where its object lies, seen from it.
DIRECTIONS: dict[str, tuple[Direction, Direction]] = {
    "top_left": ("top", "left"),
    "bottom_right": ("bottom", "right"),
}


@dataclass(frozen=True)
class CornerNetHead:
    """Both corners have parameters of their own, below top_left/ and bottom_right/."""

    num_classes: int
    pooling_channels: int
    channels: int  # of the convolution that opens each branch
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
    """What is predicted of one kind of corner."""
    return {
        f"{corner}_heatmap": Branch("heatmap", num_classes, bias=HEATMAP_BIAS),
        f"{corner}_tag": Branch("tag", 1),
        f"{corner}_offset": Branch("offset", 2),
    }


def corner_pooling(
    x: nn.Variable, directions: tuple[Direction, Direction], channels: int, pooled_channels: int, mode: Mode
) -> nn.Variable:
    """Feature map -> map of `channels` whose corners know what lies along `directions`: section 3.3, figure 7."""
    pooled = []
    for scope, direction in zip(("vertical", "horizontal"), directions, strict=True):
        with nn.parameter_scope(scope):
            h = conv_norm(x, pooled_channels, 3, mode, init=uniform_in)
        pooled.append(corner_pool(h, direction, mode))
    return beside_shortcut(x, pooled[0] + pooled[1], channels, mode)


def beside_shortcut(x: nn.Variable, pooled: nn.Variable, channels: int, mode: Mode) -> nn.Variable:
    """What was pooled from a feature map, joined with the map itself: the end of every pooling module."""
    with nn.parameter_scope("shortcut"):
        shortcut = conv_norm(x, channels, 1, mode, init=uniform_in, relu=False)
    with nn.parameter_scope("pooled"):
        h = conv_norm(pooled, channels, 3, mode, init=uniform_in, shortcut=shortcut)
    with nn.parameter_scope("feature"):
        return conv_norm(h, channels, 3, mode, init=uniform_in)
