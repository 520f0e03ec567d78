# SPDX-License-Identifier: Apache-2.0
"""Upsampling of maps without parameters: nearest neighbour and bilinear, for every layout and size."""

from __future__ import annotations

from typing import Literal

import nnabla as nn
import nnabla.functions as F

from pointdet.errors import PointDetError
from pointdet.ops.cpu import interpolation
from pointdet.ops.layers import to_first, to_last
from pointdet.ops.mode import Mode

# The largest number of values that NNabla's CUDA kernels interpolate correctly at once: the values of one
# image in NHWC, of one channel in NCHW. It launches at most 65536 blocks of 512 threads. If there are more
# values, a thread computes several, and writes out of bounds at its second one, in the forward and in the
# backward pass: its counter of images ran out at the first.
MAX_VALUES = 65536 * 512


def upsample_nearest(x: nn.Variable, factor: int, mode: Mode) -> nn.Variable:
    """Nearest neighbour upsampling: every value becomes a square of factor x factor."""
    return _interpolate(x, factor, "nearest", mode)


def upsample_bilinear(x: nn.Variable, factor: int, mode: Mode) -> nn.Variable:
    """Bilinear upsampling to `factor` times the size, like PyTorch with align_corners=False."""
    return _interpolate(x, factor, "linear", mode)


def _interpolate(x: nn.Variable, factor: int, kind: Literal["nearest", "linear"], mode: Mode) -> nn.Variable:
    """Errors: PointDetError if the map is too large for a GPU."""
    if mode.wrapped:
        return to_last(_interpolate(to_first(x, mode), factor, kind, mode.unwrapped), mode)
    if mode.through_python:
        nearest, bilinear = interpolation.upsample_nearest, interpolation.upsample_bilinear
        return nearest(x, factor) if kind == "nearest" else bilinear(x, factor)
    if mode.has_channel_last:  # on a GPU
        at_once = channels_at_once(x.shape, factor, mode.channel_last)
        if mode.channel_last and at_once < x.shape[3]:
            starts = range(0, x.shape[3], at_once)
            parts = [_interpolate(_channels(x, c, c + at_once), factor, kind, mode) for c in starts]
            return F.concatenate(*parts, axis=3)
    scale, half_pixel = (factor, factor), kind == "linear"
    return F.interpolate(x, scale, mode=kind, half_pixel=half_pixel, channel_last=mode.channel_last)


def channels_at_once(shape: tuple[int, ...], factor: int, channel_last: bool) -> int:
    """The number of channels of a map (B, H, W, C), or (B, C, H, W), that a GPU can interpolate together.

    Errors: PointDetError if it cannot interpolate one channel.
    """
    height, width = (factor * side for side in (shape[1:3] if channel_last else shape[2:4]))
    if height * width > MAX_VALUES:
        raise PointDetError(
            f"NNabla cannot compute a map of {height} x {width} cells on a GPU (more than {MAX_VALUES}); use a "
            "smaller image: smaller input.height and input.width, or test.keep_resolution=false"
        )
    return MAX_VALUES // (height * width)


def _channels(x: nn.Variable, start: int, stop: int) -> nn.Variable:
    b, height, width, c = x.shape
    return F.slice(x, start=(0, 0, 0, start), stop=(b, height, width, min(stop, c)))
