# SPDX-License-Identifier: Apache-2.0
"""What a convolution, a deconvolution and their gradients have in common: three sums over a sliding kernel.

Each runs between large maps (B, C, H, W), small maps (B, O, h, w) and a kernel (O, C / groups, k, k). A convolution is
`reduce`, and its gradients are `spread` and `learn`; a deconvolution is `spread`, and its gradients are `reduce` and
`learn`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pointdet.ops.cpu.memory import Floats


@dataclass(frozen=True)
class Geometry:
    """The shapes of one layer."""

    batch: int
    channels: int  # of the large maps
    height: int
    width: int
    out_channels: int  # of the small maps
    kernel: int
    pad: int
    stride: int
    dilation: int = 1
    groups: int = 1

    @property
    def rows(self) -> int:
        """Height of the small maps."""
        return (self.height + 2 * self.pad - self.reach) // self.stride + 1

    @property
    def columns(self) -> int:
        """Width of the small maps."""
        return (self.width + 2 * self.pad - self.reach) // self.stride + 1

    @property
    def reach(self) -> int:
        """Side of the kernel with its holes."""
        return self.dilation * (self.kernel - 1) + 1


class Correlation(Protocol):
    """The three sums for one geometry. `add`: to what is there already, instead of replacing it."""

    def reduce(self, kernel: Floats, large: Floats, small: Floats, add: bool) -> None:
        """Every cell of `small` (+)= the kernel over the part of `large` that it sees."""

    def spread(self, kernel: Floats, small: Floats, large: Floats, add: bool) -> None:
        """`large` (+)= the kernel, stamped by every cell of `small`."""

    def learn(self, large: Floats, small: Floats, kernel: Floats, add: bool) -> None:
        """`kernel` (+)= every cell of `small` times the part of `large` that it sees."""
