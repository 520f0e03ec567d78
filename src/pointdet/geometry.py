# SPDX-License-Identifier: Apache-2.0
"""View (one affine map image <-> network input) and box overlap. NumPy and OpenCV only."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class View:
    """The window through which the network sees an image.

    ``x_input = scale_x * x_image + shift_x``, likewise for y; scale_x is negative when the image is mirrored.
    The image and its boxes go through the same numbers, and `boxes_to_image` is the way home.
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
        """The image point `centre` (x, y) comes to the middle of the input, enlarged by `scale`."""
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
        """The whole image as large as the input allows, times `zoom`, centred, padded with black.

        For square inputs this is the published "fix_res" view, whose scale is input / longer side.
        """
        # The published code resizes by `zoom` to whole pixels first and centres that image.
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
        """The image at its own resolution times `zoom`, centred on black with sides of the next larger multiple.

        The published "keep_res" view: a side that already is a multiple grows by one more. Height and width are then
        `short` of it: by 1 for CornerNet's published views.
        """
        zoomed_height, zoomed_width = int(image_height * zoom), int(image_width * zoom)
        height = (zoomed_height // multiple + 1) * multiple - short[0]
        width = (zoomed_width // multiple + 1) * multiple - short[1]
        top, left = height // 2 - zoomed_height // 2, width // 2 - zoomed_width // 2
        return View(height, width, scale_x=zoom, scale_y=zoom, shift_x=left, shift_y=top)

    def mirrored(self) -> View:
        """The same window as its mirror image: column x is where column width - 1 - x was."""
        return replace(self, scale_x=-self.scale_x, shift_x=self.width - 1 - self.shift_x)

    def warp(
        self, image: npt.NDArray[np.uint8], out: npt.NDArray[np.uint8] | None = None
    ) -> npt.NDArray[np.uint8]:
        """The input image (height, width, 3): bilinear, black outside. `out` is written in place where given."""
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
        if part.size:  # the rest need not be computed
            matrix = np.array(
                [
                    [self.scale_x, 0, self.shift_x - columns.start],
                    [0, self.scale_y, self.shift_y - rows.start],
                ]
            )
            cv2.warpAffine(image, matrix, part.shape[1::-1], dst=part, flags=cv2.INTER_LINEAR)
        return out

    def reach(self, image_height: int, image_width: int) -> tuple[slice, slice]:
        """Rows and columns of the input that an image of this size reaches; beyond them all is black."""
        return (
            _reached(image_height, self.scale_y, self.shift_y, self.height),
            _reached(image_width, self.scale_x, self.shift_x, self.width),
        )

    def reduction(self, image_height: int, image_width: int) -> int:
        """By how much an image can be made smaller before it is warped without being enlarged then: 1, 2, 4 or 8."""
        scale = max(abs(self.scale_x), abs(self.scale_y))
        fitting = (n for n in (8, 4, 2) if n * scale <= 1 and image_height % n == image_width % n == 0)
        return next(fitting, 1)

    def of_reduced(self, reduction: int) -> View:
        """The same view of the image made smaller: each of its pixels covers `reduction` of the image's a side."""
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

    def boxes_to_input(self, boxes_image: Floats) -> Floats:
        """(N, 4) from image to input pixels."""
        scale = np.array([self.scale_x, self.scale_y] * 2)
        shift = np.array([self.shift_x, self.shift_y] * 2)
        return self._ordered(boxes_image * scale + shift)

    def boxes_to_image(self, boxes_input: Floats) -> Floats:
        """(N, 4) from input to image pixels."""
        scale = np.array([self.scale_x, self.scale_y] * 2)
        shift = np.array([self.shift_x, self.shift_y] * 2)
        return self._ordered((boxes_input - shift) / scale)

    def _ordered(self, boxes: npt.NDArray[np.float64]) -> Floats:
        """A mirrored view swaps left and right: x1 <= x2 again."""
        return (boxes[:, [2, 1, 0, 3]] if self.scale_x < 0 else boxes).astype(np.float32)


def _reached(image_size: int, scale: float, shift: float, size: int) -> slice:
    """The cells of one axis that lie less than a pixel from the image."""
    first, last = sorted((shift - scale, shift + scale * image_size))
    start = min(max(math.floor(first), 0), size)
    return slice(start, min(max(math.ceil(last) + 1, start), size))


def overlaps(boxes: Floats, others: Floats, border: float = 0.0) -> npt.NDArray[np.float64]:
    """(N, M) intersection over union; `border` 1 counts a box's last pixel into its size, as Pascal VOC does."""
    a, b = boxes.astype(np.float64)[:, None], others.astype(np.float64)[None]
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0]) + border
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1]) + border
    common = np.maximum(width, 0) * np.maximum(height, 0)
    area_a = (a[..., 2] - a[..., 0] + border) * (a[..., 3] - a[..., 1] + border)
    area_b = (b[..., 2] - b[..., 0] + border) * (b[..., 3] - b[..., 1] + border)
    union = area_a + area_b - common
    iou: npt.NDArray[np.float64] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return iou
