# SPDX-License-Identifier: Apache-2.0
"""The names of the ImageNet HRNets, the official ones and timm's."""

from __future__ import annotations

from pointdet.weights.naming.leaves import path

TRUNK = ("conv1", "bn1", "conv2", "bn2", "layer1", "transition", "stage")


def our_name(key: str) -> str | None:
    """Published key -> our path; None for the classifier and the convolutions before it.

    The scopes are the published ones, but that bnN shares that of convN, and a pair (0, 1) has that of its parent.
    """
    if not key.startswith(TRUNK):
        return None
    *scope, layer, leaf = key.split(".")
    if not layer.isdigit():
        scope.append(f"conv{layer[-1]}")
    return path("/".join(scope), layer, leaf)
