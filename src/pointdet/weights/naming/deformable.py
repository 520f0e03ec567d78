# SPDX-License-Identifier: Apache-2.0
"""The upsampling with deformable convolutions of the official CenterNet, `dla_34` and `resdcn_N`: its keys -> our paths.

Their bases and heads are named as those of `dlav0_34` and `res_N`. Arrays have the same shapes, but for normalisation.
"""

from __future__ import annotations

from pointdet.weights.naming.leaves import LEAVES

# What stands between the scope and the leaf of a key -> our scope. Layers of ResNet are counted from a stage's first.
DLA_LAYERS = {"conv": "conv", "conv.conv_offset_mask": "offset/conv", "actf.0": "bn", "": "deconv"}
RESNET_LAYERS = {
    "0": "deform/conv",
    "0.conv_offset_mask": "deform/offset/conv",
    "1": "deform/bn",
    "3": "deconv",
    "4": "bn",
}


def dla_name(key: str) -> str | None:
    """A key below `dla_up` or `ida_up` -> our path; None for the number of batches, which we do not keep."""
    *parts, leaf = key.split(".")
    depth = 3 if parts[0] == "dla_up" else 2
    return _path("/".join(parts[:depth]), DLA_LAYERS[".".join(parts[depth:])], leaf)


def resnet_name(key: str) -> str | None:
    """A key below `deconv_layers` of `resdcn_N` -> our path; None for the number of batches."""
    _, index, *parts, leaf = key.split(".")
    stage, layer = divmod(int(index), 6)
    return _path(f"upsample{stage + 1}", RESNET_LAYERS[".".join([str(layer), *parts])], leaf)


def _path(scope: str, layer: str, leaf: str) -> str | None:
    ours = LEAVES["bn" if layer.endswith("bn") else "conv"].get(leaf)
    return f"{scope}/{layer}/{ours}" if ours else None
