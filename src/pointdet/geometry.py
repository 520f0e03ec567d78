# SPDX-License-Identifier: Apache-2.0
"""View, the affine map between image and network input, and IoU of boxes. NumPy and OpenCV only."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from pointdet.arrays import Float32Array, Float64Array, UInt8Array


@dataclass(frozen=True)
class View:
    """The affine map from an image to the network's input, for the image and its boxes.

    ``x_input = scale_x * x_image + shift_x``, and the same for y. scale_x is negative if the image is
    mirrored. `boxes_to_image` is the inverse for boxes.
    """

    height: int  # of the network's input
    width: int
    scale_x: float
    scale_y: float
    shift_x: float
    shift_y: float

    @staticmethod
    def centred(
        centre: tuple[float, float], scale: float, height: int, width: int, mirrored: bool = False
    ) -> View:
        """The image scaled by `scale`, with its point `centre` (x, y) at the centre of the input."""
        signed = -scale if mirrored else scale
        return View(
            height=height,
            width=width,
            scale_x=signed,
            scale_y=scale,
            shift_x=width / 2 - signed * centre[0],
            shift_y=height / 2 - scale * centre[1],
        )

    @staticmethod
    def fit(image_height: int, image_width: int, height: int, width: int, zoom: float = 1.0) -> View:
        """The whole image, as large as the input allows, times `zoom`; centred and padded with black.

        For square inputs this is the published "fix_res" view, with the scale input / longer side.
        """
        # The published code first resizes by `zoom` to whole pixels and then centres the result.
        centre = (int(image_width * zoom) / 2 / zoom, int(image_height * zoom) / 2 / zoom)
        return View.centred(centre, zoom * min(height / image_height, width / image_width), height, width)

    @staticmethod
    def keep(
        image_height: int,
        image_width: int,
        zoom: float = 1.0,
        multiple: int = 32,
        short: tuple[int, int] = (0, 0),
    ) -> View:
        """The image at its own resolution times `zoom`, centred and padded to a multiple of `multiple`.

        The published "keep_res" view: a side that is already a multiple is padded to the next one. `short` is
        then subtracted from height and width; it is (1, 1) for CornerNet's published views.
        """
        zoomed_height, zoomed_width = int(image_height * zoom), int(image_width * zoom)
        height = (zoomed_height // multiple + 1) * multiple - short[0]
        width = (zoomed_width // multiple + 1) * multiple - short[1]
        top, left = height // 2 - zoomed_height // 2, width // 2 - zoomed_width // 2
        return View(height, width, scale_x=zoom, scale_y=zoom, shift_x=left, shift_y=top)

    def mirrored(self) -> View:
        """The mirror image of this view: column x shows what was in column width - 1 - x."""
        return replace(self, scale_x=-self.scale_x, shift_x=self.width - 1 - self.shift_x)

    def warp(self, image: UInt8Array, out: UInt8Array | None = None) -> UInt8Array:
        """The input image (height, width, 3): bilinear, black outside. `out`: array for the result."""
        shape = (self.height, self.width, 3)
        if out is None:
            out = np.empty(shape, np.uint8)
        elif out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
            raise ValueError("out must be a contiguous (height, width, 3) uint8 array of the view's size")
        rows, columns = self.reach(*image.shape[:2])
        part = out[rows, columns]
        if part.size < out.size:
            out[: rows.start] = out[rows.stop :] = 0
            out[rows, : columns.start] = out[rows, columns.stop :] = 0
        if part.size:  # else the image is outside the input
            matrix = np.array(
                [
                    [self.scale_x, 0, self.shift_x - columns.start],
                    [0, self.scale_y, self.shift_y - rows.start],
                ]
            )
            cv2.warpAffine(image, matrix, part.shape[1::-1], dst=part, flags=cv2.INTER_LINEAR)
        return out

    def reach(self, image_height: int, image_width: int) -> tuple[slice, slice]:
        """Rows and columns of the input that an image of this size covers. All other pixels are black."""
        return (
            _reached(image_height, self.scale_y, self.shift_y, self.height),
            _reached(image_width, self.scale_x, self.shift_x, self.width),
        )

    def reduction(self, image_height: int, image_width: int) -> int:
        """Largest of 8, 4, 2, 1 by which the image can be reduced, so that `warp` does not enlarge it."""
        scale = max(abs(self.scale_x), abs(self.scale_y))
        fitting = (n for n in (8, 4, 2) if n * scale <= 1 and image_height % n == image_width % n == 0)
        return next(fitting, 1)

    def of_reduced(self, reduction: int) -> View:
        """The view of the reduced image, whose pixels cover reduction x reduction pixels of the image."""
        if reduction == 1:
            return self
        middle = (reduction - 1) / 2
        return replace(
            self,
            scale_x=self.scale_x * reduction,
            scale_y=self.scale_y * reduction,
            shift_x=self.shift_x + self.scale_x * middle,
            shift_y=self.shift_y + self.scale_y * middle,
        )

    def boxes_to_input(self, boxes_image: Float32Array) -> Float32Array:
        """(N, 4) from image to input pixels."""
        scale = np.array([self.scale_x, self.scale_y] * 2)
        shift = np.array([self.shift_x, self.shift_y] * 2)
        return self._ordered(boxes_image * scale + shift)

    def boxes_to_image(self, boxes_input: Float32Array) -> Float32Array:
        """(N, 4) from input to image pixels."""
        scale = np.array([self.scale_x, self.scale_y] * 2)
        shift = np.array([self.shift_x, self.shift_y] * 2)
        return self._ordered((boxes_input - shift) / scale)

    def _ordered(self, boxes: Float64Array) -> Float32Array:
        """Swap x1 and x2 of boxes that a mirrored view has inverted."""
        return (boxes[:, [2, 1, 0, 3]] if self.scale_x < 0 else boxes).astype(np.float32)


def _reached(image_size: int, scale: float, shift: float, size: int) -> slice:
    """Pixels of one axis of the input that are inside the image or less than one image pixel outside."""
    first, last = sorted((shift - scale, shift + scale * image_size))
    start = min(max(math.floor(first), 0), size)
    return slice(start, min(max(math.ceil(last) + 1, start), size))


def overlaps(boxes: Float32Array, others: Float32Array, border: float = 0.0) -> Float64Array:
    """(N, M) intersection over union. With `border` 1, sides are x2 - x1 + 1 as in Pascal VOC."""
    a, b = boxes.astype(np.float64)[:, None], others.astype(np.float64)[None]
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0]) + border
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1]) + border
    common = np.maximum(width, 0) * np.maximum(height, 0)
    area_a = (a[..., 2] - a[..., 0] + border) * (a[..., 3] - a[..., 1] + border)
    area_b = (b[..., 2] - b[..., 0] + border) * (b[..., 3] - b[..., 1] + border)
    union = area_a + area_b - common
    iou: Float64Array = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return iou
