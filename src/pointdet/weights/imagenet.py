# SPDX-License-Identifier: Apache-2.0
"""ImageNet backbones from PyTorch, converted to our parameter paths and our colour order."""

from __future__ import annotations

from pointdet.arrays import Arrays
from pointdet.weights.fit import with_reversed_colours
from pointdet.weights.naming.catalogue import imagenet, to_ours


def from_torch(arrays: Arrays, arch: str, colour_order: str) -> Arrays:
    """Convert the arrays of a published backbone, by their keys, to arrays by our parameter paths, in NCHW.

    The published files expect RGB. For colour_order "bgr" the input channels of the first convolution are
    reversed. The files also expect ImageNet's mean and standard deviation; these are not converted. If
    `input.mean` and `input.std` differ from them, fine-tuning adapts the parameters.
    """
    ours = to_ours(arrays, imagenet(arch, bottleneck="layer1.0.conv3.weight" in arrays))
    return with_reversed_colours(ours, channel_last=False) if colour_order == "bgr" else ours
