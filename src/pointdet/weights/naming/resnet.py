# SPDX-License-Identifier: Apache-2.0
"""The names of torchvision's ResNets and of the upsampling of official CenterNet's `res_N`."""

from __future__ import annotations

from pointdet.weights.naming.names import Rules, pair


def trunk(bottleneck: bool) -> Rules:
    """bottleneck: the network has bottlenecks, as from 50 layers on; the keys of its first convolutions do not tell."""
    unit = "res{s}/layer{u+1}/" + ("bottleneck" if bottleneck else "basicblock")
    return (
        ("conv1", "conv1/conv"),
        ("bn1", "conv1/bn"),
        ("layer{s}.{u}.conv{k}", f"{unit}{{k}}/conv"),
        ("layer{s}.{u}.bn{k}", f"{unit}{{k}}/bn"),
        *pair("layer{s}.{u}.downsample", f"{unit}_s/shortcut_conv"),
    )


# Deconvolution, normalisation, ReLU, three times.
UPSAMPLING: Rules = tuple(
    rule
    for step in range(3)
    for rule in (
        (f"deconv_layers.{3 * step}", f"upsample{step + 1}/deconv"),
        (f"deconv_layers.{3 * step + 1}", f"upsample{step + 1}/bn"),
    )
)
