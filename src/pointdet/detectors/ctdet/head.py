# SPDX-License-Identifier: Apache-2.0
"""Feature map -> centre heatmap, size and offset (Zhou et al., 2019, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import nnabla as nn

from pointdet.detectors.common.branches import HEATMAP_BIAS, Branch, predict
from pointdet.ops.layers import small_normal
from pointdet.ops.mode import Mode


@dataclass(frozen=True)
class CtDetHead:
    """Parameters have the names and the order of the published NNabla files."""

    num_classes: int
    channels: int
    legacy_heatmap_bias: bool
    size_per_class: bool = False
    heatmaps: tuple[str, ...] = ("heatmap",)
    class_bias: str = "hm_final/conv/b"

    @property
    def branches(self) -> dict[str, Branch]:
        """heatmap: logits (B, C, h, w); offset: x, y and size: width, height, (B, 2, h, w) in cells.

        With `size_per_class`, size is (B, 2 C, h, w): width and height for each class.
        """
        first_bias = HEATMAP_BIAS if self.legacy_heatmap_bias else 0
        return {
            "heatmap": Branch("hm", self.num_classes, bias=HEATMAP_BIAS, first_bias=first_bias),
            "offset": Branch("reg", 2, small_normal),
            "size": Branch("wh", 2 * self.num_classes if self.size_per_class else 2, small_normal),
        }

    def __call__(self, feature: nn.Variable, mode: Mode) -> dict[str, nn.Variable]:
        """Outputs by name, see `branches`."""
        return predict(feature, self.branches, self.channels, mode)
