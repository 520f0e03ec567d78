# SPDX-License-Identifier: Apache-2.0
"""The names of the ImageNet HRNets, the official ones and timm's.

The scopes are ours too, but that bnN shares that of convN, and a pair (0, 1) has that of its parent. The classifier and
the convolutions before it have no counterpart.
"""

from __future__ import annotations

from pointdet.weights.naming.names import Rules, pair

STEM: Rules = (("conv{k}", "conv{k}/conv"), ("bn{k}", "conv{k}/bn"))
STAGES: Rules = tuple(
    (theirs + layer, ours + our_layer)
    for theirs, ours in (
        ("layer{s}.{u}.", "layer{s}/{u}/"),
        ("stage{s}.{m}.branches.{b}.{u}.", "stage{s}/{m}/branches/{b}/{u}/"),
    )
    for layer, our_layer in (("conv{k}", "conv{k}/conv"), ("bn{k}", "conv{k}/bn"))
) + (
    *pair("layer{s}.{u}.downsample", "layer{s}/{u}/downsample"),
    *pair("transition{t}.{b}", "transition{t}/{b}"),
    *pair("transition{t}.{b}.{u}", "transition{t}/{b}/{u}"),
    *pair("stage{s}.{m}.fuse_layers.{i}.{j}", "stage{s}/{m}/fuse_layers/{i}/{j}"),
    *pair("stage{s}.{m}.fuse_layers.{i}.{j}.{k}", "stage{s}/{m}/fuse_layers/{i}/{j}/{k}"),
)
TRUNK: Rules = STEM + STAGES
