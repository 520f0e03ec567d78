# SPDX-License-Identifier: Apache-2.0
"""Names of the upsampling with deformable convolutions in official CenterNet's `dla_34` and `resdcn_N`.

Their backbones and heads have the names of `dlav0_34` and `res_N`.
"""

from __future__ import annotations

from pointdet.weights.naming.names import Rules


def _unit(theirs: str, ours: str) -> Rules:
    return (
        (f"{theirs}.conv", f"{ours}/conv"),
        (f"{theirs}.conv.conv_offset_mask", f"{ours}/offset/conv"),
        (f"{theirs}.actf.0", f"{ours}/bn"),
    )


def _aggregation(theirs: str, ours: str) -> Rules:
    return (
        *_unit(f"{theirs}.proj_{{i}}", f"{ours}/proj_{{i}}"),
        *_unit(f"{theirs}.node_{{i}}", f"{ours}/node_{{i}}"),
        (f"{theirs}.up_{{i}}", f"{ours}/up_{{i}}/deconv"),
    )


DLA: Rules = (*_aggregation("dla_up.ida_{k}", "dla_up/ida_{k}"), *_aggregation("ida_up", "ida_up"))

# Three steps of deformable convolution, normalisation, ReLU, deconvolution, normalisation, ReLU.
RESNET: Rules = tuple(
    (f"deconv_layers.{6 * step + place}{rest}", f"upsample{step + 1}/{ours}")
    for step in range(3)
    for place, rest, ours in (
        (0, "", "deform/conv"),
        (0, ".conv_offset_mask", "deform/offset/conv"),
        (1, "", "deform/bn"),
        (3, "", "deconv"),
        (4, "", "bn"),
    )
)
