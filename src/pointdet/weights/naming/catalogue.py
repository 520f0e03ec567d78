# SPDX-License-Identifier: Apache-2.0
"""Arrays of a published PyTorch file -> the same arrays under our names and in our shapes."""

from __future__ import annotations

from pointdet.weights.h5_file import Arrays
from pointdet.weights.naming import dla, hrnet, resnet


def renamed(arrays: Arrays, arch: str) -> Arrays:
    """The arrays that `model.arch` has a counterpart for, NCHW; `arrays` are under their bare published keys."""
    bottleneck = "layer1.0.conv3.weight" in arrays
    ours: Arrays = {}
    for key, array in arrays.items():
        if arch == "resnet":
            name = resnet.our_name(key, bottleneck)
        else:
            name = {"dlav0": dla, "hrnet": hrnet}[arch].our_name(key)
        if name is None:
            continue
        if "/bn/" in name:
            array = array.reshape(1, -1, 1, 1)
        elif arch == "dlav0" and array.ndim == 4:
            array = array[:, dla.input_order(name, array)]
        ours[name] = array
    return ours
