# SPDX-License-Identifier: Apache-2.0
"""The backbones by name: `model.arch` and `model.num_layers` -> a function from image to feature maps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import nnabla as nn

from pointdet.backbones import dla, hourglass, hrnet, resnet
from pointdet.config import schema
from pointdet.errors import PointDetError
from pointdet.ops.layers import conv_norm, uniform_in
from pointdet.ops.mode import Mode

DEPTHS = {
    "resnet": tuple(resnet.STAGES),
    "resdcn": tuple(resnet.STAGES),
    "dlav0": (34,),
    "dla": (34,),
    "hourglass": tuple(hourglass.STACKS),
    "hrnet": hrnet.CHANNELS,
}
# Backbones that share their ImageNet parameters with another one -> the name in the published files.
BASES = {"resdcn": "resnet", "dlav0": "dla"}

Backbone = Callable[[nn.Variable, Mode], list[nn.Variable]]


def build(model: schema.ModelConfig) -> Backbone:
    """The backbone of a configuration. Errors: PointDetError for an unknown depth."""
    backbone, channels = _backbone(model), model.feature_channels
    return backbone if channels is None else partial(_with_neck, backbone, channels)


def _with_neck(backbone: Backbone, channels: int, x: nn.Variable, mode: Mode) -> list[nn.Variable]:
    features = backbone(x, mode)
    out = []
    for stack, feature in enumerate(features, 1):
        with nn.parameter_scope(f"stack{stack}/neck" if len(features) > 1 else "neck"):
            out.append(conv_norm(feature, channels, 3, mode, init=uniform_in))
    return out


def _backbone(model: schema.ModelConfig) -> Backbone:
    depths = DEPTHS[model.arch]
    if model.num_layers not in depths:
        known = ", ".join(map(str, depths))
        raise PointDetError(
            f"model.num_layers: {model.arch} has no depth {model.num_layers}; "
            + (f"choose one of {known}" if len(depths) > 1 else f"set it to {known}")
        )
    if model.arch == "dlav0":
        return lambda x, mode: dla.dlav0(x, model.width, 3 if model.official_neck else 1, mode)
    if model.arch == "dla":
        return lambda x, mode: dla.dla(x, model.width, mode)
    if model.arch == "hourglass":
        stacks = hourglass.STACKS[model.num_layers]
        return lambda x, mode: hourglass.hourglass(x, stacks, model.hourglass_levels, model.width, mode)
    if model.arch == "hrnet":
        return lambda x, mode: hrnet.hrnet(x, model.num_layers, model.hrnet_blocks, model.width, mode)
    network = resnet.resdcn if model.arch == "resdcn" else resnet.resnet
    return lambda x, mode: network(x, model.num_layers, model.width, mode)


def imagenet_files(model: schema.ModelConfig, channel_last: bool) -> list[str]:
    """File name patterns of the backbone's published ImageNet parameters, in order of preference.

    First NNabla's files in both layouts, then those of torchvision and of the authors of DLA and HRNet.
    Errors: PointDetError for the hourglass, which has none.
    """
    if model.arch == "hourglass":
        raise PointDetError(
            "model.pretrained_model_dir: the hourglass has no published ImageNet parameters; set it to null, "
            "and start from a detector with --checkpoint or from scratch"
        )
    depth = model.num_layers
    name = BASES.get(model.arch, model.arch)
    layouts = ("nhwc", "nchw") if channel_last else ("nchw", "nhwc")
    files = [f"{name}{depth}_{layout}_imagenet.h5" for layout in layouts]
    return files + (
        [f"hrnet*w{depth}*.pth"] if name == "hrnet" else [f"{name}{depth}.pth", f"{name}{depth}-*.pth"]
    )
