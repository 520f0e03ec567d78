# SPDX-License-Identifier: Apache-2.0
"""Convert arrays between published keys and our parameter paths, including their shapes (NCHW)."""

from __future__ import annotations

import numpy as np

from pointdet.arrays import Arrays
from pointdet.config.schema import ModelConfig
from pointdet.weights.naming import cornernet, ctdet, deformable, dla, hourglass, hrnet, resnet, triplet
from pointdet.weights.naming.names import Names, Rules, named, per_stack, prefixed

HEADS = {"ctdet": ctdet.heads, "cornernet": cornernet.heads, "triplet": triplet.heads}


def official(model: ModelConfig, detector: str) -> Names:
    """The names in the official code.

    If no official code has this backbone with this detector, the names of the backbone and of the heads are
    combined.
    """
    stacks = {52: 1, 104: 2}[model.num_layers] if model.arch == "hourglass" else 0
    trunk = triplet.HRNET if (model.arch, detector) == ("hrnet", "triplet") else _backbone(model)
    index, scope = per_stack(stacks)
    # The convolution between backbone and heads, named as in the HRNet fork. An hourglass has its own `cnvs`.
    neck = named(f"{'necks' if stacks else 'cnvs'}{index}", f"{scope}neck")
    return Names(trunk + neck + HEADS[detector](stacks))


def imagenet(arch: str, bottleneck: bool) -> Names:
    """The names in published ImageNet files."""
    match arch:
        case "dlav0" | "dla":
            return Names(dla.TRUNK)
        case "hrnet":
            return Names(hrnet.TRUNK)
    return Names(resnet.trunk(bottleneck))


def to_ours(arrays: Arrays, names: Names) -> Arrays:
    """Convert arrays by published key to arrays by our path. Keys without a path are left out."""
    found: Arrays = {}
    for key, array in arrays.items():
        if (path := names.ours(key)) is not None:
            if "/bn/" in path and array.ndim == 1:  # an array of another rank stays as it is and does not fit
                array = array.reshape(1, -1, 1, 1)
            elif dla.is_root_kernel(path) and array.ndim == 4:
                array = array[:, dla.input_order(path, array)]
            found[path] = array
    return found


def to_published(arrays: Arrays, names: Names) -> Arrays:
    """The inverse of `to_ours`."""
    found: Arrays = {}
    for path, array in arrays.items():
        if (key := names.published(path)) is not None:
            if "/bn/" in path:
                array = array.reshape(-1)
            elif dla.is_root_kernel(path):
                array = array[:, np.argsort(dla.input_order(path, array))]
            found[key] = array
    return found


def _backbone(model: ModelConfig) -> Rules:
    match model.arch:
        case "dlav0":
            return prefixed("base.", dla.TRUNK) + dla.NECK
        case "dla":
            return prefixed("base.", dla.TRUNK) + deformable.DLA
        case "hourglass":
            return hourglass.trunk(model.hourglass_levels)
        case "hrnet":
            return hrnet.TRUNK
    upsampling = deformable.RESNET if model.arch == "resdcn" else resnet.UPSAMPLING
    return resnet.trunk(bottleneck=model.num_layers >= 50) + upsampling
