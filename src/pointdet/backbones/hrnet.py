# SPDX-License-Identifier: Apache-2.0
"""HRNetV2 (Wang et al., 2019): image -> one feature map at stride 4, concatenated from strides 4 to 32.

Parameter paths are the keys of the published ImageNet files; a convolution and its normalisation share a
scope. Without these files residual units are initialised as the identity (Goyal et al., 2017, section 5.1):
the sums over many units are not normalised, and would overflow in half precision.
"""

from __future__ import annotations

import nnabla as nn
import nnabla.functions as F

from pointdet.backbones.widths import scaled
from pointdet.ops.layers import add, conv_norm
from pointdet.ops.mode import Mode
from pointdet.ops.upsampling import upsample_bilinear, upsample_nearest

# Channels of the finest branch, which name the published networks. Every coarser branch has twice as many.
CHANNELS = (18, 32, 48)
MODULES = {2: 1, 3: 4, 4: 3}  # stage -> number of modules; stage s has s branches


def hrnet(x: nn.Variable, num_layers: int, blocks: int, width: float, mode: Mode) -> list[nn.Variable]:
    """(B, C, H, W) or (B, H, W, C) normalised image -> [feature map of 15 * channels at stride 4].

    channels = num_layers * width, the channels of the finest branch. `blocks`: residual units on every branch
    of a module, 4 in the published networks. H and W must be multiples of 32.
    """
    channels, stem = scaled(num_layers, width), scaled(64, width)
    with nn.parameter_scope("conv1"):
        h = conv_norm(x, stem, 3, mode, stride=2)
    with nn.parameter_scope("conv2"):
        h = conv_norm(h, stem, 3, mode, stride=2)
    for k in range(blocks):
        with nn.parameter_scope(f"layer1/{k}"):
            h = _bottleneck(h, stem, mode)
    with nn.parameter_scope("transition1/0"):
        branches = [conv_norm(h, channels, 3, mode)]
    coarsest = h
    for stage, modules in MODULES.items():
        new = stage - 1
        with nn.parameter_scope(f"transition{new}/{new}/0"):
            branches.append(conv_norm(coarsest, channels << new, 3, mode, stride=2))
        for k in range(modules):
            with nn.parameter_scope(f"stage{stage}/{k}"):
                branches = _module(branches, blocks, mode)
        coarsest = branches[-1]
    upsampled = [upsample_bilinear(branch, 1 << b, mode) for b, branch in enumerate(branches) if b > 0]
    return [F.concatenate(branches[0], *upsampled, axis=mode.channel_axis)]


def _module(branches: list[nn.Variable], blocks: int, mode: Mode) -> list[nn.Variable]:
    """Residual units on every branch, then the exchange between all branches (section 3.2)."""
    deeper = []
    for b, h in enumerate(branches):
        for k in range(blocks):
            with nn.parameter_scope(f"branches/{b}/{k}"):
                h = _basic(h, mode)
        deeper.append(h)
    return [_fused(deeper, target, mode) for target in range(len(deeper))]


def _fused(branches: list[nn.Variable], target: int, mode: Mode) -> nn.Variable:
    """ReLU of the sum of all branches, each resampled to the size and channels of the branch `target`."""
    total = branches[target]
    channels = total.shape[mode.channel_axis]
    for source in range(target + 1, len(branches)):
        with nn.parameter_scope(f"fuse_layers/{target}/{source}"):
            h = conv_norm(branches[source], channels, 1, mode, relu=False)
        total = add(total, upsample_nearest(h, 1 << (source - target), mode), mode)
    # The finer branches come last: their normalisation includes the sum and the ReLU.
    for source in range(target):
        with nn.parameter_scope(f"fuse_layers/{target}/{source}"):
            total = _downsampled(branches[source], target - source, total, source == target - 1, mode)
    return total if target else F.relu(total)


def _downsampled(h: nn.Variable, steps: int, total: nn.Variable, relu: bool, mode: Mode) -> nn.Variable:
    """`total` plus the map h, downsampled by 2^steps."""
    for step in range(steps - 1):
        with nn.parameter_scope(f"{step}"):
            h = conv_norm(h, h.shape[mode.channel_axis], 3, mode, stride=2)
    with nn.parameter_scope(f"{steps - 1}"):
        channels = total.shape[mode.channel_axis]
        return conv_norm(h, channels, 3, mode, stride=2, shortcut=total, relu=relu)


def _basic(x: nn.Variable, mode: Mode) -> nn.Variable:
    channels = x.shape[mode.channel_axis]
    with nn.parameter_scope("conv1"), nn.recompute(mode.recompute):
        h = conv_norm(x, channels, 3, mode)
    with nn.parameter_scope("conv2"):
        return conv_norm(h, channels, 3, mode, shortcut=x, gamma=0)


def _bottleneck(x: nn.Variable, channels: int, mode: Mode) -> nn.Variable:
    with nn.parameter_scope("conv1"), nn.recompute(mode.recompute):
        h = conv_norm(x, channels, 1, mode)
    with nn.parameter_scope("conv2"), nn.recompute(mode.recompute):
        h = conv_norm(h, channels, 3, mode)
    shortcut = x
    if x.shape[mode.channel_axis] != 4 * channels:
        with nn.parameter_scope("downsample"), nn.recompute(mode.recompute):
            shortcut = conv_norm(x, 4 * channels, 1, mode, relu=False)
    with nn.parameter_scope("conv3"):
        return conv_norm(h, 4 * channels, 1, mode, shortcut=shortcut, gamma=0)
