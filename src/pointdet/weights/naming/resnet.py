# SPDX-License-Identifier: Apache-2.0
"""The names of torchvision's ResNets and of official CenterNet's `res_N`."""

from __future__ import annotations

from pointdet.weights.naming import ctdet
from pointdet.weights.naming.leaves import path


def our_name(key: str, bottleneck: bool) -> str | None:
    """Published key -> our path; None for what has no counterpart, as the classifier.

    bottleneck: the network has bottlenecks, as from 50 layers on; the keys of its first convolutions do not tell.
    """
    block = "bottleneck" if bottleneck else "basicblock"
    match key.split("."):
        case ["conv1" | "bn1" as stem, leaf]:
            return path("conv1", stem, leaf)
        case ["layer1" | "layer2" | "layer3" | "layer4" as stage, unit, *rest]:
            scope = f"res{stage[-1]}/layer{int(unit) + 1}/{block}"
            match rest:
                case ["downsample", place, leaf]:
                    return path(f"{scope}_s/shortcut_conv", place, leaf)
                case [layer, leaf]:
                    return path(f"{scope}{layer[-1]}", layer, leaf)
        case ["deconv_layers", place, leaf]:  # deconvolution, normalisation, ReLU, three times
            step, part = divmod(int(place), 3)
            scope = f"upsample{step + 1}"
            return f"{scope}/deconv/W" if part == 0 else path(scope, "bn", leaf)
    return ctdet.our_name(key)
