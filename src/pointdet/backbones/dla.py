# SPDX-License-Identifier: Apache-2.0
"""DLA-34 (Yu et al., 2018) with the upsampling of "DLAv0" or of "DLA": image -> one feature map at stride 4.

Both use iterative deep aggregation. DLAv0 concatenates maps. DLA adds maps between deformable convolutions
(Zhou et al., 2019, section 5). Names of parameters and the order of concatenated maps in DLAv0 are those of
the published NNabla CenterNet files, the names in DLA's upsampling those of the official code.
"""

from __future__ import annotations

import nnabla as nn
import nnabla.functions as F

from pointdet.backbones.widths import scaled
from pointdet.ops.deformable import deform_conv_norm
from pointdet.ops.layers import add, conv_norm, depthwise_upsample, max_pool
from pointdet.ops.mode import Mode

CHANNELS = (16, 32, 64, 128, 256, 512)  # of levels 0 to 5; level k has stride 2^k


def dlav0(x: nn.Variable, width: float, last_kernel: int, mode: Mode) -> list[nn.Variable]:
    """(B, C, H, W) or (B, H, W, C) normalised image -> [feature map of 64 * width channels at stride 4].

    `last_kernel`: kernel of the last node at stride 8; 1 in the NNabla example, 3 in the official code.
    """
    return [_upsampling(_levels(x, width, mode), last_kernel, mode)]


def dla(x: nn.Variable, width: float, mode: Mode) -> list[nn.Variable]:
    """Like `dlav0`, with the upsampling of DLA and its deformable convolutions."""
    levels = _levels(x, width, mode)
    results = []  # of the aggregations at stride 16, 8 and 4
    with nn.parameter_scope("dla_up"):
        for k in range(3):
            with nn.parameter_scope(f"ida_{k}"):
                levels[2 - k :] = _aggregated(levels[2 - k :], (2,) * (k + 1), mode)
            results.append(levels[-1])
    with nn.parameter_scope("ida_up"):
        return _aggregated(results[::-1], (2, 4), mode)[-1:]


def _levels(x: nn.Variable, width: float, mode: Mode) -> list[nn.Variable]:
    """The feature maps of levels 2 to 5."""
    channels = [scaled(c, width) for c in CHANNELS]
    with nn.parameter_scope("conv1"):
        h = conv_norm(x, channels[0], 7, mode)
    with nn.parameter_scope("level0/conv1"):
        h = conv_norm(h, channels[0], 3, mode)
    with nn.parameter_scope("level1/conv1"):
        h = conv_norm(h, channels[1], 3, mode, stride=2)
    with nn.parameter_scope("level2"):
        level2 = _tree(h, channels[2], mode)
    with nn.parameter_scope("level3"):
        level3 = _deep_tree(level2, channels[3], mode)
    with nn.parameter_scope("level4"):
        level4 = _deep_tree(level3, channels[4], mode)
    with nn.parameter_scope("level5"):
        level5 = _tree(level4, channels[5], mode, with_input=True)
    return [level2, level3, level4, level5]


def _tree(x: nn.Variable, channels: int, mode: Mode, with_input: bool = False) -> nn.Variable:
    """Aggregate two blocks at half the size and, `with_input`, the pooled input."""
    pooled = max_pool(x, mode, kernel=2, stride=2, pad=0)
    shortcut = conv_norm(pooled, channels, 1, mode, relu=False)
    first, second = _blocks(x, shortcut, channels, 2, mode)
    return _concatenate("root", [first, pooled, second] if with_input else [first, second], channels, 1, mode)


def _deep_tree(x: nn.Variable, channels: int, mode: Mode) -> nn.Variable:
    """A tree at half the size and two more blocks, aggregated with the tree's result and the pooled input."""
    with nn.parameter_scope("node1"):
        inner = _tree(x, channels, mode)
    with nn.parameter_scope("node2"):
        first, second = _blocks(inner, inner, channels, 1, mode)
        pooled = max_pool(x, mode, kernel=2, stride=2, pad=0)
        return _concatenate("root", [first, inner, second, pooled], channels, 1, mode)


def _blocks(
    x: nn.Variable, shortcut: nn.Variable, channels: int, stride: int, mode: Mode
) -> tuple[nn.Variable, nn.Variable]:
    with nn.parameter_scope("block1"):
        first = _block(x, shortcut, channels, stride, mode)
    with nn.parameter_scope("block2"):
        return first, _block(first, first, channels, 1, mode)


def _block(x: nn.Variable, shortcut: nn.Variable, channels: int, stride: int, mode: Mode) -> nn.Variable:
    with nn.parameter_scope("basicblock1"), nn.recompute(mode.recompute):
        h = conv_norm(x, channels, 3, mode, stride=stride)
    with nn.parameter_scope("basicblock2"):
        return conv_norm(h, channels, 3, mode, shortcut=shortcut)


def _upsampling(levels: list[nn.Variable], last_kernel: int, mode: Mode) -> nn.Variable:
    """Upsample every map to the size of the previous one and concatenate both, down to stride 4."""
    level2, level3, level4, level5 = levels
    c2, c3, c4 = (level.shape[mode.channel_axis] for level in (level2, level3, level4))
    sixteenth = _concatenate("up8/root", [_up("up16/up", level5, c4, mode), level4], c4, 3, mode)
    with nn.parameter_scope("up4/residual_level3"):
        inner = _concatenate("level3up_root/root", [_up("up", level4, c3, mode), level3], c3, 3, mode)
    up8 = _up("up8/up", sixteenth, c3, mode)
    eighth = _concatenate("up4/residual_level3/x_root/root", [up8, inner], c3, last_kernel, mode)
    up4 = _up("up4/up", eighth, c2, mode)
    from_inner = _up("up2_b/up", inner, c2, mode)
    with nn.parameter_scope("up2_c"):
        h = _concatenate("level3up_c_root/root", [level2, _up("up", level3, c2, mode)], c2, 3, mode)
        h = _concatenate("level2up_root/root", [from_inner, h], c2, 3, mode)
        return _concatenate("x_root/root", [up4, h], c2, 3, mode)


def _up(scope: str, x: nn.Variable, channels: int, mode: Mode) -> nn.Variable:
    """Convolution 1x1 to `channels` and upsampling to twice the size."""
    with nn.parameter_scope(scope):
        return depthwise_upsample(conv_norm(x, channels, 1, mode), mode)


def _concatenate(scope: str, maps: list[nn.Variable], channels: int, kernel: int, mode: Mode) -> nn.Variable:
    with nn.parameter_scope(scope):
        return conv_norm(F.concatenate(*maps, axis=mode.channel_axis), channels, kernel, mode)


def _aggregated(maps: list[nn.Variable], factors: tuple[int, ...], mode: Mode) -> list[nn.Variable]:
    """Each map gets the channels of the first one, is upsampled by its factor and added to the last sum."""
    channels = maps[0].shape[mode.channel_axis]
    results = maps[:1]
    for i, (x, factor) in enumerate(zip(maps[1:], factors, strict=True), 1):
        with nn.parameter_scope(f"proj_{i}"):
            h = deform_conv_norm(x, channels, mode)
        with nn.parameter_scope(f"up_{i}"):
            h = depthwise_upsample(h, mode, factor)
        with nn.parameter_scope(f"node_{i}"):
            results.append(deform_conv_norm(add(h, results[-1], mode), channels, mode))
    return results
