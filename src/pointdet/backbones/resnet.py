# SPDX-License-Identifier: Apache-2.0
"""ResNet (He et al., 2016) with three deconvolutions (Xiao et al., 2018): image -> feature map at stride 4.

`resdcn` has a deformable convolution before each deconvolution (Zhou et al., 2019, section 5). Parameter
names are those of the published NNabla CenterNet files.
"""

from __future__ import annotations

import nnabla as nn

from pointdet.arrays import Float32Array
from pointdet.backbones.widths import scaled
from pointdet.ops.deformable import deform_conv_norm
from pointdet.ops.layers import Initialiser, bilinear, conv_norm, deconv_norm, he_out, max_pool, uniform_in
from pointdet.ops.mode import Mode

# Depth -> number of residual units in each of the four stages, and whether they are bottlenecks.
STAGES: dict[int, tuple[tuple[int, int, int, int], bool]] = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}


def resnet(x: nn.Variable, num_layers: int, width: float, mode: Mode) -> list[nn.Variable]:
    """(B, C, H, W) or (B, H, W, C) normalised image -> [feature map of 256 * width channels at stride 4]."""
    h = _stages(x, num_layers, width, mode)
    for k in range(1, 4):
        with nn.parameter_scope(f"upsample{k}"):
            h = deconv_norm(h, scaled(256, width), mode)
    return [h]


def resdcn(x: nn.Variable, num_layers: int, width: float, mode: Mode) -> list[nn.Variable]:
    """Like `resnet`, with deformable convolutions and a feature map of 64 * width channels."""
    h = _stages(x, num_layers, width, mode)
    for k, channels in enumerate((256, 128, 64), 1):
        with nn.parameter_scope(f"upsample{k}"):
            with nn.parameter_scope("deform"):
                h = deform_conv_norm(h, scaled(channels, width), mode)
            h = deconv_norm(h, scaled(channels, width), mode, init=_bilinear_first_channel)
    return [h]


def _bilinear_first_channel(shape: tuple[int, ...]) -> Float32Array:
    """Initial values of the official code: bilinear for output channel 0, uniform for all others."""
    values = uniform_in(shape)
    values[:, :1] = bilinear((shape[0], 1, *shape[2:]))
    return values


def _stages(x: nn.Variable, num_layers: int, width: float, mode: Mode) -> nn.Variable:
    """The feature map at stride 32."""
    units, bottleneck = STAGES[num_layers]
    with nn.parameter_scope("conv1"):
        h = conv_norm(x, scaled(64, width), 7, mode, stride=2)
    h = max_pool(h, mode, kernel=3, stride=2, pad=1)
    for stage, count in enumerate(units):
        for unit in range(count):
            stride = 2 if stage > 0 and unit == 0 else 1
            with nn.parameter_scope(f"res{stage + 1}/layer{unit + 1}"):
                h = (_bottleneck if bottleneck else basic)(h, scaled(64 << stage, width), stride, mode)
    return h


def basic(x: nn.Variable, channels: int, stride: int, mode: Mode, init: Initialiser = he_out) -> nn.Variable:
    """Residual unit of two 3x3 convolutions (He et al., 2016, figure 5 left)."""
    with nn.parameter_scope("basicblock1"), nn.recompute(mode.recompute):
        h = conv_norm(x, channels, 3, mode, stride=stride, init=init)
    shortcut = _shortcut(x, "basicblock_s", channels, stride, mode, init)
    with nn.parameter_scope("basicblock2"):
        return conv_norm(h, channels, 3, mode, init=init, shortcut=shortcut)


def _bottleneck(x: nn.Variable, channels: int, stride: int, mode: Mode) -> nn.Variable:
    with nn.parameter_scope("bottleneck1"), nn.recompute(mode.recompute):
        h = conv_norm(x, channels, 1, mode)
    with nn.parameter_scope("bottleneck2"), nn.recompute(mode.recompute):
        h = conv_norm(h, channels, 3, mode, stride=stride)
    shortcut = _shortcut(x, "bottleneck_s", 4 * channels, stride, mode)
    with nn.parameter_scope("bottleneck3"):
        return conv_norm(h, 4 * channels, 1, mode, shortcut=shortcut)


def _shortcut(
    x: nn.Variable, scope: str, channels: int, stride: int, mode: Mode, init: Initialiser = he_out
) -> nn.Variable:
    """The input itself, or its 1x1 projection if channels or size change (type B)."""
    if x.shape[mode.channel_axis] == channels and stride == 1:
        return x
    with nn.parameter_scope(f"{scope}/shortcut_conv"), nn.recompute(mode.recompute):
        return conv_norm(x, channels, 1, mode, stride=stride, init=init, relu=False)
