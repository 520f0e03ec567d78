# SPDX-License-Identifier: Apache-2.0
"""The three primitives of a convolution, with the names of oneDNN: forward, backward data, backward weights.

x is (B, H, W, C), y is (B, h, w, O) and the weights w are (O, C / groups, k, k). The primitives are named from
the convolution's point of view. A deconvolution is the transpose of a convolution, so it has the same weights but
its input has the shape of y and its output the shape of x. It uses `backward_data` for its forward pass, `forward`
for the gradient of its input and `backward_weights` for the gradient of its weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pointdet.arrays import Float32Array


@dataclass(frozen=True)
class ConvolutionShape:
    """The sizes of one convolution with square kernels. `channels`, `height` and `width` are those of x."""

    batch: int
    channels: int
    height: int
    width: int
    out_channels: int
    kernel: int
    pad: int
    stride: int
    dilation: int = 1
    groups: int = 1
    weights_last: bool = False  # w is (O, k, k, C / groups)

    @property
    def out_height(self) -> int:
        return (self.height + 2 * self.pad - self.dilated_kernel) // self.stride + 1

    @property
    def out_width(self) -> int:
        return (self.width + 2 * self.pad - self.dilated_kernel) // self.stride + 1

    @property
    def dilated_kernel(self) -> int:
        """Side of the kernel with the gaps of the dilation."""
        return self.dilation * (self.kernel - 1) + 1


@dataclass(frozen=True)
class Epilogue:
    """What follows a forward convolution in the same pass: y * scale + shift + shortcut, then ReLU."""

    scale: Float32Array | None = None  # (O,)
    shift: Float32Array | None = None  # (O,)
    shortcut: Float32Array | None = None  # like y
    relu: bool = False


class ConvolutionPrimitives(Protocol):
    """The primitives of one convolution.

    The last array is the result. The values are added to it if `accumulate`, else they replace it.
    """

    def forward(self, x: Float32Array, w: Float32Array, y: Float32Array, after: Epilogue) -> None:
        """y = convolution of x with w, and what comes after it."""

    def backward_data(self, w: Float32Array, dy: Float32Array, dx: Float32Array, accumulate: bool) -> None:
        """dx (+)= gradient of x, from the gradient of y."""

    def backward_weights(self, x: Float32Array, dy: Float32Array, dw: Float32Array, accumulate: bool) -> None:
        """dw (+)= gradient of w, from x and the gradient of y."""
