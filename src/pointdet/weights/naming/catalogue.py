# SPDX-License-Identifier: Apache-2.0
"""Arrays of a published PyTorch file -> the same arrays under our names and in our shapes."""

from __future__ import annotations

from pointdet.weights.h5_file import Arrays
from pointdet.weights.naming import deformable, dla, hourglass, hrnet, resnet


def renamed(arrays: Arrays, arch: str) -> Arrays:
    """The arrays that `model.arch` has a counterpart for, NCHW; `arrays` are under their bare published keys."""
    bottleneck = "layer1.0.conv3.weight" in arrays
    ours: Arrays = {}
    for key, array in arrays.items():
        name = _our_name(key, arch, bottleneck)
        if name is None:
            continue
        if "/bn/" in name:
            array = array.reshape(1, -1, 1, 1)
        elif arch in ("dlav0", "dla") and array.ndim == 4:
            array = array[:, dla.input_order(name, array)]
        ours[name] = array
    return ours


def _our_name(key: str, arch: str, bottleneck: bool) -> str | None:
    match arch:
        case "dla" if key.startswith(("dla_up.", "ida_up.")):
            return deformable.dla_name(key)
        case "resdcn" if key.startswith("deconv_layers."):
            return deformable.resnet_name(key)
        case "dlav0" | "dla":
            return dla.our_name(key)
        case "hourglass":
            return hourglass.our_name(key)
        case "hrnet":
            return hrnet.our_name(key)
    return resnet.our_name(key, bottleneck)
