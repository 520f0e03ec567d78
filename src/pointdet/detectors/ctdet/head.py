# SPDX-License-Identifier: Apache-2.0
"""Feature map -> centre heatmap, size and offset (Zhou et al., 2019, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import nnabla as nn
import nnabla.functions as F

from pointdet.ops.layers import (
    Mode,
    bias,
    constant,
    conv,
    convolve,
    small_normal,
    to_first,
    uniform_in,
    weight,
)

# Probability 0.1 at every cell before training (Lin et al., 2017, section 4.1).
HEATMAP_BIAS = -2.19

# Output name -> scope of its parameters in the published NNabla files, in the files' order.
SCOPES = {"heatmap": "hm", "offset": "reg", "size": "wh"}


@dataclass(frozen=True)
class CtDetHead:
    """Per output a 3x3 convolution with ReLU and a 1x1 convolution."""

    num_classes: int
    channels: int
    legacy_heatmap_bias: bool
    heatmaps: tuple[str, ...] = ("heatmap",)
    class_bias: str = "hm_final/conv/b"

    def __call__(self, feature: nn.Variable, mode: Mode) -> dict[str, nn.Variable]:
        """{"heatmap": logits (B, C, h, w), "offset": (B, 2, h, w) x y, "size": (B, 2, h, w) w h, in cells}."""
        hidden = self._first_convolutions(feature, mode)
        outputs = {}
        for (name, scope), part in zip(SCOPES.items(), hidden, strict=True):
            heatmap = name == "heatmap"
            with nn.parameter_scope(f"{scope}_final"):
                out = conv(
                    part,
                    self.num_classes if heatmap else 2,
                    1,
                    mode,
                    init=uniform_in if heatmap else small_normal,
                    bias_init=constant(HEATMAP_BIAS if heatmap else 0),
                )
            outputs[name] = to_first(out, mode)
        return outputs

    def _first_convolutions(self, feature: nn.Variable, mode: Mode) -> list[nn.Variable]:
        """All heads' first convolutions as one over concatenated weights; the parameters keep their own names.

        One wide convolution reads the feature map, the largest of the network, once instead of three times.
        """
        weights, biases = [], []
        for name, scope in SCOPES.items():
            with nn.parameter_scope(f"{scope}_conv1"):
                weights.append(
                    weight("conv", self.channels, feature.shape[mode.channel_axis], 3, mode, uniform_in)
                )
                legacy = name == "heatmap" and self.legacy_heatmap_bias
                biases.append(bias("conv", self.channels, constant(HEATMAP_BIAS if legacy else 0)))
        joined = convolve(feature, F.concatenate(*weights, axis=0), F.concatenate(*biases, axis=0), mode)
        axis = mode.channel_axis
        hidden = F.relu(joined)
        return [
            F.slice(
                hidden,
                start=tuple(i * self.channels if a == axis else 0 for a in range(4)),
                stop=tuple((i + 1) * self.channels if a == axis else s for a, s in enumerate(hidden.shape)),
            )
            for i in range(len(SCOPES))
        ]
