# SPDX-License-Identifier: Apache-2.0
"""The affine colour matrix of each image as one NNabla function: with OpenCV, or with one small matrix product."""

from __future__ import annotations

import ctypes

import cv2
import nnabla as nn
import numpy as np
from nnabla.function import PythonFunction

from pointdet.arrays import Float32Array, Image
from pointdet.ops.cpu.memory import CPU, data, silent, workspace
from pointdet.ops.cpu.process_state import function_context

BLOCK = 1 << 14  # pixels of a block: 192 KiB in float32


def colour(images: nn.Variable, matrix: nn.Variable, channel_last: bool) -> nn.Variable:
    """Images (B, H, W, 3) of uint8, and matrices (B, C, 4) -> float32 maps (B, C, H, W) or (B, H, W, C).

    matrix[b, c] has the factors of the three values of a pixel, and the shift. Neither input gets a gradient.
    Errors: ValueError if one needs it.
    """
    if images.need_grad or matrix.need_grad:
        raise ValueError("the colour matrix has no gradients; set need_grad of images and matrix to False")
    return _Colour(function_context(), channel_last)(images, matrix)


class _Colour(PythonFunction):
    def __init__(self, ctx: nn.Context, channel_last: bool) -> None:
        super().__init__(ctx)
        self._channel_last = channel_last

    @property
    def name(self) -> str:
        return "CpuColour"

    def min_outputs(self) -> int:
        return 1

    def grad_depends_output_data(self, i: int, o: int) -> bool:
        return False

    def grad_depends_input_data(self, i: int, j: int) -> bool:
        return False

    def setup_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        batch, height, width, _ = inputs[0].shape
        channels = inputs[1].shape[1]
        first, last = (batch, channels, height, width), (batch, height, width, channels)
        outputs[0].reset_shape(last if self._channel_last else first, True)

    @silent
    def forward_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        apply = _to_last if self._channel_last else _to_first
        for image, matrix, out in zip(_pixels(inputs[0]), data(inputs[1]), data(outputs[0]), strict=True):
            pixels = image.reshape(-1, 3)
            for first in range(0, len(pixels), BLOCK):
                part = pixels[first : first + BLOCK]
                values = workspace("pixels", len(part), 3)
                values[...] = part
                apply(values, matrix, out, slice(first, first + len(part)))


def _to_first(values: Float32Array, matrix: Float32Array, out: Float32Array, place: slice) -> None:
    target = out.reshape(len(matrix), -1)[:, place]
    np.matmul(matrix[:, :3], values.T, out=target)
    target += matrix[:, 3:]


def _to_last(values: Float32Array, matrix: Float32Array, out: Float32Array, place: slice) -> None:
    # A matrix product with so few columns takes six times as long.
    out.reshape(-1, len(matrix))[place] = cv2.transform(values[:, None], matrix)[:, 0]


def _pixels(images: nn.Variable) -> Image:
    """The values of a variable of uint8, valid while the function runs."""
    pointer = images.data.data_ptr(np.uint8, CPU)
    return np.frombuffer((ctypes.c_uint8 * images.size).from_address(pointer), np.uint8).reshape(images.shape)
