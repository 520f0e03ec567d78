# SPDX-License-Identifier: Apache-2.0
"""Names of torchvision's ResNets and of the upsampling in official CenterNet's `res_N`."""

from __future__ import annotations

from pointdet.weights.naming.names import Rules, indexed


def trunk(bottleneck: bool) -> Rules:
    """Rules of the backbone. bottleneck: its units are bottlenecks, as in networks of 50 layers and more."""
    unit = "res{s}/layer{u+1}/" + ("bottleneck" if bottleneck else "basicblock")
    return (
        ("conv1", "conv1/conv"),
        ("bn1", "conv1/bn"),
        ("layer{s}.{u}.conv{k}", f"{unit}{{k}}/conv"),
        ("layer{s}.{u}.bn{k}", f"{unit}{{k}}/bn"),
        *indexed("layer{s}.{u}.downsample", f"{unit}_s/shortcut_conv"),
    )


# Three steps of deconvolution, normalisation, ReLU.
UPSAMPLING: Rules = tuple(
    rule
    for step in range(3)
    for rule in (
        (f"deconv_layers.{3 * step}", f"upsample{step + 1}/deconv"),
        (f"deconv_layers.{3 * step + 1}", f"upsample{step + 1}/bn"),
    )
)
