# SPDX-License-Identifier: Apache-2.0
"""The affine colour matrix of each image, in every layout and mode."""

from __future__ import annotations

import nnabla as nn
import nnabla.functions as F

from pointdet.ops.cpu import colour as cpu
from pointdet.ops.mode import Mode


def colour(images: nn.Variable, matrix: nn.Variable, mode: Mode) -> nn.Variable:
    """Apply one affine colour matrix (B, C, 4) to each of the uint8 images (B, H, W, 3).

    The result has C channels and the mode's layout. One small matrix product per image does jitter,
    normalisation, channel order and layout.
    """
    if mode.through_python:
        return cpu.colour(images, matrix, channel_last=True)
    b, height, width, _ = images.shape
    c = matrix.shape[1]
    pixels = F.reshape(images, (b, height * width, 3))
    linear = F.slice(matrix, start=(0, 0, 0), stop=(b, c, 3))
    shift = F.slice(matrix, start=(0, 0, 3), stop=(b, c, 4))
    if mode.channel_last:
        mixed = F.batch_matmul(pixels, linear, transpose_b=True) + F.reshape(shift, (b, 1, c))
        return F.reshape(mixed, (b, height, width, c))
    mixed = F.batch_matmul(linear, pixels, transpose_b=True) + shift
    return F.reshape(mixed, (b, c, height, width))
