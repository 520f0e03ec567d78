# SPDX-License-Identifier: Apache-2.0
"""The backbones by name: `model.arch` and `model.num_layers` -> a function image -> feature maps."""

from __future__ import annotations

from collections.abc import Callable

import nnabla as nn

from pointdet.backbones import resnet
from pointdet.config import schema
from pointdet.errors import PointDetError
from pointdet.ops.layers import Mode


def build(model: schema.Model) -> Callable[[nn.Variable, Mode], list[nn.Variable]]:
    """The backbone of a configuration. Errors: PointDetError for a depth that does not exist."""
    if model.num_layers not in resnet.STAGES:
        known = ", ".join(map(str, resnet.STAGES))
        raise PointDetError(
            f"model.num_layers: {model.arch} has no depth {model.num_layers}; choose one of {known}"
        )
    return lambda x, mode: resnet.resnet(x, model.num_layers, model.width, mode)


def imagenet_file(model: schema.Model, channel_last: bool) -> str:
    """The published name of the backbone's ImageNet parameters."""
    return f"{model.arch}{model.num_layers}_{'nhwc' if channel_last else 'nchw'}_imagenet.h5"
