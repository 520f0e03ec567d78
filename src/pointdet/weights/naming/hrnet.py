# SPDX-License-Identifier: Apache-2.0
"""Names of the ImageNet HRNets, both the official ones and timm's.

Our scopes are the published ones, except that bnN has the scope of convN, and layers 0 and 1 have the scope
of their parent. The classifier and the convolutions before it have no path.
"""

from __future__ import annotations

from pointdet.weights.naming.names import Rules, indexed

STEM: Rules = (("conv{k}", "conv{k}/conv"), ("bn{k}", "conv{k}/bn"))
STAGES: Rules = tuple(
    (theirs + layer, ours + our_layer)
    for theirs, ours in (
        ("layer{s}.{u}.", "layer{s}/{u}/"),
        ("stage{s}.{m}.branches.{b}.{u}.", "stage{s}/{m}/branches/{b}/{u}/"),
    )
    for layer, our_layer in (("conv{k}", "conv{k}/conv"), ("bn{k}", "conv{k}/bn"))
) + (
    *indexed("layer{s}.{u}.downsample", "layer{s}/{u}/downsample"),
    *indexed("transition{t}.{b}", "transition{t}/{b}"),
    *indexed("transition{t}.{b}.{u}", "transition{t}/{b}/{u}"),
    *indexed("stage{s}.{m}.fuse_layers.{i}.{j}", "stage{s}/{m}/fuse_layers/{i}/{j}"),
    *indexed("stage{s}.{m}.fuse_layers.{i}.{j}.{k}", "stage{s}/{m}/fuse_layers/{i}/{j}/{k}"),
)
TRUNK: Rules = STEM + STAGES
