# SPDX-License-Identifier: Apache-2.0
"""Stacked hourglasses (Newell et al., 2016): image -> one feature map at stride 4 per stack.

They are those of CornerNet (Law and Deng, 2018, section 3.5): all layers are residual units, strides replace
pooling, and a stack gets only the features of the previous one, not its predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import nnabla as nn

from pointdet.backbones.resnet import basic
from pointdet.backbones.widths import scaled
from pointdet.ops.layers import add, conv_norm, uniform_in
from pointdet.ops.mode import Mode
from pointdet.ops.upsampling import upsample_nearest

STACKS = {52: 1, 104: 2}  # depth -> number of stacks

# Channels of the inputs of levels 1 to 5, and of the bottom. With fewer levels the first ones and the bottom
# are used, so that the units with the most channels have the largest receptive field.
CHANNELS = (256, 256, 384, 384, 384, 512)


def hourglass(x: nn.Variable, stacks: int, levels: int, width: float, mode: Mode) -> list[nn.Variable]:
    """(B, C, H, W) or (B, H, W, C) normalised image -> feature maps of 256 * width channels at stride 4.

    H / 4 and W / 4, rounded up, must be multiples of 2^levels.
    """
    channels = [scaled(c, width) for c in (*CHANNELS[:levels], CHANNELS[-1])]
    with nn.parameter_scope("conv1"):
        h = conv_norm(x, scaled(128, width), 7, mode, stride=2, init=uniform_in)
    with nn.parameter_scope("res1"):
        h = basic(h, channels[0], 2, mode, uniform_in)
    features: list[nn.Variable] = []
    for stack in range(1, stacks + 1):
        with nn.parameter_scope(f"stack{stack}"):
            if features:
                h = _merge(h, features[-1], mode)
            out = _hourglass(h, channels, mode)
            with nn.parameter_scope("feature"):
                features.append(conv_norm(out, channels[0], 3, mode, init=uniform_in))
    return features


def _hourglass(x: nn.Variable, channels: Sequence[int], mode: Mode) -> nn.Variable:
    """Downsample to the bottom and upsample again. At every level the skip branch is added."""
    skips = []
    for level, (outer, inner) in enumerate(pairwise(channels), 1):
        with nn.parameter_scope(f"level{level}"):
            skips.append(_units("skip", x, (outer, outer), mode))
            x = _units("down", x, (inner, inner), mode, stride=2)
    x = _units("bottom", x, (channels[-1],) * 4, mode)
    for level in range(len(skips), 0, -1):
        with nn.parameter_scope(f"level{level}"):
            x = _units("up", x, (channels[level], channels[level - 1]), mode)
            x = add(skips[level - 1], upsample_nearest(x, 2, mode), mode)
    return x


def _units(scope: str, x: nn.Variable, channels: Sequence[int], mode: Mode, stride: int = 1) -> nn.Variable:
    """A sequence of residual units with these numbers of channels. The first one has the stride."""
    for number, c in enumerate(channels, 1):
        with nn.parameter_scope(f"{scope}/layer{number}"):
            x = basic(x, c, stride if number == 1 else 1, mode, uniform_in)
    return x


def _merge(x: nn.Variable, feature: nn.Variable, mode: Mode) -> nn.Variable:
    """Input and feature map of a stack -> input of the next stack."""
    channels = x.shape[mode.channel_axis]
    with nn.parameter_scope("merge"):
        with nn.parameter_scope("input"):
            before = conv_norm(x, channels, 1, mode, init=uniform_in, relu=False)
        with nn.parameter_scope("feature"):
            h = conv_norm(feature, channels, 1, mode, init=uniform_in, shortcut=before)
        return basic(h, channels, 1, mode, uniform_in)
