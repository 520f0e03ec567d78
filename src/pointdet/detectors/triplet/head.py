# SPDX-License-Identifier: Apache-2.0
"""Feature map -> outputs of corners after cascade corner pooling, and of centres (Duan et al., 2019, 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import nnabla as nn

from pointdet.detectors.common.branches import HEATMAP_BIAS, Branch, predict
from pointdet.detectors.cornernet.codec import CORNERS
from pointdet.detectors.cornernet.head import DIRECTIONS, add_shortcut, corner_branches
from pointdet.detectors.triplet.codec import KEYPOINTS
from pointdet.ops.layers import add, conv, conv_norm, uniform_in
from pointdet.ops.mode import Mode
from pointdet.ops.pooling import Direction, corner_pool, line_pool


@dataclass(frozen=True)
class TripletHead:
    """Each keypoint has its own parameters, below top_left/, bottom_right/ and centre/."""

    num_classes: int
    pooling_channels: int
    channels: int  # of the 3x3 convolution of each branch
    heatmaps: tuple[str, ...] = tuple(f"{kind}_heatmap" for kind in KEYPOINTS)
    class_bias: str = "top_left/heatmap_final/conv/b"

    def __call__(self, feature: nn.Variable, mode: Mode) -> dict[str, nn.Variable]:
        """Of each keypoint logits (B, C, h, w) and offset x, y (B, 2, h, w); of corners tags (B, 1, h, w)."""
        outputs: dict[str, nn.Variable] = {}
        channels = self.pooling_channels
        for corner in CORNERS:
            with nn.parameter_scope(corner):
                pooled = cascade_corner_pooling(feature, DIRECTIONS[corner], channels, channels // 2, mode)
                outputs |= predict(pooled, corner_branches(corner, self.num_classes), self.channels, mode)
        centre = {
            "centre_heatmap": Branch("heatmap", self.num_classes, bias=HEATMAP_BIAS),
            "centre_offset": Branch("offset", 2),
        }
        with nn.parameter_scope("centre"):
            pooled = centre_pooling(feature, channels, channels // 2, mode)
            outputs |= predict(pooled, centre, self.channels, mode)
        return outputs


def cascade_corner_pooling(
    x: nn.Variable, directions: tuple[Direction, Direction], channels: int, pooled_channels: int, mode: Mode
) -> nn.Variable:
    """Cascade corner pooling module: feature map -> map of `channels` (section 3.3, figure 5).

    Pooling is first inwards and then along the border, as in the published code; the paper describes the
    reverse order.
    """
    pooled = []
    for scope, along, inwards in zip(("vertical", "horizontal"), directions, directions[::-1], strict=True):
        with nn.parameter_scope(f"{scope}_look"):
            inside = corner_pool(conv_norm(x, pooled_channels, 3, mode, init=uniform_in), inwards, mode)
        with nn.parameter_scope(scope):
            border = conv_norm(x, pooled_channels, 3, mode, init=uniform_in)
        with nn.parameter_scope(f"{scope}_joined"):
            h = conv(add(border, inside, mode), pooled_channels, 3, mode, init=uniform_in)
        pooled.append(corner_pool(h, along, mode))
    return add_shortcut(x, add(pooled[0], pooled[1], mode), channels, mode)


def centre_pooling(x: nn.Variable, channels: int, pooled_channels: int, mode: Mode) -> nn.Variable:
    """Centre pooling module: feature map -> map of `channels` (section 3.3, figure 4)."""
    lines = []
    for scope, vertical in (("vertical", True), ("horizontal", False)):
        with nn.parameter_scope(scope):
            h = conv_norm(x, pooled_channels, 3, mode, init=uniform_in)
        lines.append(line_pool(h, vertical, mode))
    return add_shortcut(x, add(lines[0], lines[1], mode), channels, mode)
