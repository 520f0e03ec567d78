# SPDX-License-Identifier: Apache-2.0
"""Backbones that PyTorch code trained on ImageNet, for a network that may be fed another colour order."""

from __future__ import annotations

import numpy as np

from pointdet.weights.fit import STEM
from pointdet.weights.h5_file import Arrays
from pointdet.weights.naming.catalogue import imagenet, to_ours


def from_torch(arrays: Arrays, arch: str, colour_order: str) -> Arrays:
    """The backbone's arrays under our names, NCHW, for `input.colour_order`; `arrays` are under their published keys.

    The files expect RGB. They also expect ImageNet's mean and standard deviation, which are left to `input.mean` and
    `input.std`: where those are COCO's, training makes up for the difference.
    """
    ours = to_ours(arrays, imagenet(arch, bottleneck="layer1.0.conv3.weight" in arrays))
    if colour_order == "bgr" and STEM in ours:
        ours[STEM] = np.ascontiguousarray(ours[STEM][:, ::-1])
    return ours
