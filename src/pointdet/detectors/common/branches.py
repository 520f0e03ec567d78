# SPDX-License-Identifier: Apache-2.0
"""Outputs of a head on one feature map: for each a 3x3 convolution with ReLU and a 1x1 convolution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import nnabla as nn
import nnabla.functions as F

from pointdet.ops.layers import (
    Initialiser,
    bias,
    constant,
    conv,
    convolve,
    split,
    to_first,
    uniform_in,
    weight,
)
from pointdet.ops.mode import Mode

# Initial bias of heatmap logits: probability 0.1 at every cell (Lin et al., 2017, section 4.1).
HEATMAP_BIAS = -2.19


@dataclass(frozen=True)
class Branch:
    """One output. Its parameters are `scope`_conv1/conv/{W,b} and `scope`_final/conv/{W,b}."""

    scope: str
    channels: int
    init: Initialiser = uniform_in  # of the 1x1 convolution
    bias: float = 0  # initial bias of the 1x1 convolution
    first_bias: float = 0  # initial bias of the 3x3 convolution


def predict(
    feature: nn.Variable, branches: Mapping[str, Branch], hidden_channels: int, mode: Mode
) -> dict[str, nn.Variable]:
    """The outputs by name, (B, channels, h, w) in every layout."""
    outputs = {}
    for (name, branch), part in zip(
        branches.items(),
        _first_convolutions(feature, list(branches.values()), hidden_channels, mode),
        strict=True,
    ):
        with nn.parameter_scope(f"{branch.scope}_final"):
            out = conv(part, branch.channels, 1, mode, init=branch.init, bias_init=constant(branch.bias))
        outputs[name] = to_first(out, mode)
    return outputs


def _first_convolutions(
    feature: nn.Variable, branches: list[Branch], channels: int, mode: Mode
) -> list[nn.Variable]:
    """The 3x3 convolutions of all branches as one convolution with concatenated weights.

    The parameters keep their names. One convolution reads the feature map once instead of once for each
    branch.
    """
    weights, biases = [], []
    for branch in branches:
        with nn.parameter_scope(f"{branch.scope}_conv1"):
            weights.append(weight("conv", channels, feature.shape[mode.channel_axis], 3, mode, uniform_in))
            biases.append(bias("conv", channels, constant(branch.first_bias)))
    joined = convolve(
        feature, F.concatenate(*weights, axis=0), F.concatenate(*biases, axis=0), mode, relu=True
    )
    return split(joined, len(branches), mode)
