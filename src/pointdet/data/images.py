# SPDX-License-Identifier: Apache-2.0
"""Image file -> BGR pixels, or an ImageFault with the reason in one sentence."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from pointdet.arrays import UInt8Array

EXIF_ORIENTATION = 0x0112
EXIF_QUARTER_TURNS = (5, 6, 7, 8)  # values of this tag that swap height and width


class ImageFault(Exception):
    """An image cannot be used. The message names the file and the reason."""


# Reduction -> OpenCV's flag for decoding at 1 / reduction of the size, which is faster for JPEG.
REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def read_image(
    path: str | Path, height: int | None = None, width: int | None = None, reduction: int = 1
) -> UInt8Array:
    """The pixels of an image file as (height, width, 3) uint8 BGR.

    Grey, palette and CMYK images are converted to BGR and 16 bits to 8; an alpha channel is dropped. `height`
    and `width`: required size; give both or none. EXIF orientation is applied, as image viewers do, unless
    only the stored pixels have the required size, because some tools annotate the stored pixels. `reduction`:
    1, 2, 4 or 8, a divisor of height and width. The result is smaller by this factor; each of its pixels is
    the mean of a block of pixels.

    Errors: ImageFault if the file is missing, empty, truncated, not an image, or of another size.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise ImageFault(f"{path} cannot be read: {error.strerror or error}") from None
    image = _decode(path, data, REDUCED[reduction])
    if height is None or width is None:
        return image
    wanted = (height // reduction, width // reduction)
    # The decoder rounds sides up, so check the full size: a slightly smaller image gives the same reduced
    # size.
    if reduction == 1 or sorted(read_size(path)) == sorted((height, width)):
        if image.shape[:2] == wanted:
            return image
        stored = _decode(path, data, REDUCED[reduction] | cv2.IMREAD_IGNORE_ORIENTATION)
        if stored.shape[:2] == wanted:
            return stored
    if reduction > 1:
        image = _decode(path, data, cv2.IMREAD_COLOR)
    raise ImageFault(
        f"{path} is {image.shape[0]} x {image.shape[1]} pixels (height x width), "
        f"but its annotated size is {height} x {width}"
    )


def read_size(path: str | Path) -> tuple[int, int]:
    """Height and width after EXIF orientation, read from the file's header only. Errors: ImageFault."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(EXIF_ORIENTATION) in EXIF_QUARTER_TURNS
    except UnidentifiedImageError:
        raise ImageFault(f"{path} is not an image that can be decoded") from None
    except OSError as error:
        raise ImageFault(f"{path} cannot be read: {error.strerror or error}") from None
    return (width, height) if turned else (height, width)


def _decode(path: str | Path, data: UInt8Array, flags: int) -> UInt8Array:
    # Not cv2.imread: it fills the missing part of a truncated JPEG with grey without an error.
    try:
        image = cv2.imdecode(data, flags)
    except cv2.error:  # an empty file, or more than OpenCV's limit of 2^30 pixels
        image = None
    if image is None:
        raise ImageFault(f"{path} is truncated or not an image that can be decoded")
    return np.asarray(image, np.uint8)
