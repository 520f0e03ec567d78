# SPDX-License-Identifier: Apache-2.0
"""Names of CornerNet and of CenterNet with ResNet in mmdetection, versions 2 and 3."""

from __future__ import annotations

import numpy as np

from pointdet.arrays import Arrays
from pointdet.weights.naming.names import Rules, named

# Replacements in official CornerNet's names, see Names.renamed.
CORNERNET = (
    (r"^pre\.0", "backbone.stem.0"),
    (r"^pre\.1", "backbone.stem.1.0"),
    (r"^kps\.", "backbone.hourglass_modules."),
    (r"^cnvs\.", "backbone.out_convs."),
    (r"^inters\.", "backbone.inters."),
    (r"^inters_\.(.+)\.0$", r"backbone.conv1x1s.\1.conv"),
    (r"^inters_\.(.+)\.1$", r"backbone.conv1x1s.\1.bn"),
    (r"^cnvs_\.(.+)\.0$", r"backbone.remap_convs.\1.conv"),
    (r"^cnvs_\.(.+)\.1$", r"backbone.remap_convs.\1.bn"),
    (r"\.skip\.", ".downsample."),
    (r"_cnvs(.*)\.p_conv1$", r"_cnvs\1.aftpool_conv.conv"),
    (r"_cnvs(.*)\.p_bn1$", r"_cnvs\1.aftpool_conv.bn"),
    (r"_cnvs(.*)\.(conv|bn)1$", r"_cnvs\1.conv1.\2"),
    (r"_cnvs(.*)\.p([12])_conv1", r"_cnvs\1.direction\2_conv"),
    (r"^(tl|br)_cnvs", r"bbox_head.\1_pool"),
    (r"^(tl|br)_heats", r"bbox_head.\1_heat"),
    (r"^(tl|br)_tags", r"bbox_head.\1_emb"),
    (r"^(tl|br)_regrs", r"bbox_head.\1_off"),
    (r"^(bbox_head\.(?:tl|br)_(?:heat|emb|off).*)\.1$", r"\1.1.conv"),
)

# Replacements in the names of official CenterNet's heads.
CTDET_HEADS = (
    (r"^hm\b", "bbox_head.heatmap_head"),
    (r"^wh\b", "bbox_head.wh_head"),
    (r"^reg\b", "bbox_head.offset_head"),
)

# Three steps of a convolution, deformable or not, and a deconvolution.
UPSAMPLING: Rules = tuple(
    rule
    for step in range(3)
    for rule in (
        *named(f"neck.deconv_layers.{2 * step}", f"upsample{step + 1}/deform"),
        (f"neck.deconv_layers.{2 * step}.conv.conv_offset", f"upsample{step + 1}/deform/offset/conv"),
        (f"neck.deconv_layers.{2 * step + 1}.conv", f"upsample{step + 1}/deconv"),
        (f"neck.deconv_layers.{2 * step + 1}.bn", f"upsample{step + 1}/bn"),
    )
)

# The mask is the sigmoid of its convolution's bias here: exactly 1 in single precision.
MASK_BIAS = 100


def complete(arrays: Arrays) -> Arrays:
    """Add the parameters of our deformable convolutions that mmdetection's network does not have.

    arrays: by our path. mmdetection's deformable convolutions have no bias: ours get a zero bias. Its network
    without deformable convolutions has plain ones: ours get offsets of 0 and masks of 1, so that they compute
    the same.
    """
    found = dict(arrays)
    for step in (1, 2, 3):
        scope = f"upsample{step}/deform"
        kernel = arrays.get(f"{scope}/conv/W")
        if kernel is not None and kernel.ndim == 4:
            out, channels = kernel.shape[:2]
            found.setdefault(f"{scope}/conv/b", np.zeros(out, np.float32))
            if f"{scope}/offset/conv/W" not in arrays:
                found[f"{scope}/offset/conv/W"] = np.zeros((27, channels, 3, 3), np.float32)
                found[f"{scope}/offset/conv/b"] = np.repeat(np.array([0, MASK_BIAS], np.float32), (18, 9))
    return found
