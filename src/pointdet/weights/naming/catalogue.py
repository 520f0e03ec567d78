# SPDX-License-Identifier: Apache-2.0
"""Arrays under published names <-> the same arrays under our names and in our shapes, NCHW."""

from __future__ import annotations

import numpy as np

from pointdet.config.schema import Model
from pointdet.weights.h5_file import Arrays
from pointdet.weights.naming import cornernet, ctdet, deformable, dla, hourglass, hrnet, resnet, triplet
from pointdet.weights.naming.names import Names, Rules, below, named, per_stack

HEADS = {"ctdet": ctdet.heads, "cornernet": cornernet.heads, "triplet": triplet.heads}


def official(model: Model, detector: str) -> Names:
    """The names of the official code, or, where none has this backbone with this detector, those of its two parts."""
    stacks = {52: 1, 104: 2}[model.num_layers] if model.arch == "hourglass" else 0
    trunk = triplet.HRNET if (model.arch, detector) == ("hrnet", "triplet") else _backbone(model)
    index, scope = per_stack(stacks)
    # The convolution between both is named as in the fork; hourglasses have their own of this name.
    neck = named(f"{'necks' if stacks else 'cnvs'}{index}", f"{scope}neck")
    return Names(trunk + neck + HEADS[detector](stacks))


def imagenet(arch: str, bottleneck: bool) -> Names:
    """The names of the files with ImageNet parameters."""
    match arch:
        case "dlav0" | "dla":
            return Names(dla.TRUNK)
        case "hrnet":
            return Names(hrnet.TRUNK)
    return Names(resnet.trunk(bottleneck))


def to_ours(arrays: Arrays, names: Names) -> Arrays:
    """The arrays that have a counterpart here, in their order."""
    found: Arrays = {}
    for key, array in arrays.items():
        if (path := names.ours(key)) is not None:
            if "/bn/" in path:
                array = array.reshape(1, -1, 1, 1)
            elif dla.joins(path) and array.ndim == 4:
                array = array[:, dla.input_order(path, array)]
            found[path] = array
    return found


def to_published(arrays: Arrays, names: Names) -> Arrays:
    """The way back."""
    found: Arrays = {}
    for path, array in arrays.items():
        if (key := names.published(path)) is not None:
            if "/bn/" in path:
                array = array.reshape(-1)
            elif dla.joins(path):
                array = array[:, np.argsort(dla.input_order(path, array))]
            found[key] = array
    return found


def _backbone(model: Model) -> Rules:
    match model.arch:
        case "dlav0":
            return below("base.", dla.TRUNK) + dla.NECK
        case "dla":
            return below("base.", dla.TRUNK) + deformable.DLA
        case "hourglass":
            return hourglass.trunk(model.hourglass_levels)
        case "hrnet":
            return hrnet.TRUNK
    upsampling = deformable.RESNET if model.arch == "resdcn" else resnet.UPSAMPLING
    return resnet.trunk(bottleneck=model.num_layers >= 50) + upsampling
