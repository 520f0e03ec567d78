# SPDX-License-Identifier: Apache-2.0
"""An image file -> BGR pixels, or an ImageFault that says in one sentence why not."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

EXIF_ORIENTATION = 0x0112
EXIF_QUARTER_TURNS = (5, 6, 7, 8)  # the values of that tag that swap height and width


class ImageFault(Exception):
    """This image cannot be used; the message names the file."""


# OpenCV's decoding at a fraction of the size; of a JPEG only that part of the work is done.
REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def read_image(
    path: str | Path, height: int | None = None, width: int | None = None, reduction: int = 1
) -> npt.NDArray[np.uint8]:
    """The pixels of a file, (height, width, 3) uint8 BGR, whatever the file holds.

    Grey and palette images become BGR, 16 bits become 8, CMYK is converted, an alpha channel is left out. With
    `height` and `width` (both or none) the image must have that size. EXIF orientation is applied as every viewer
    does, unless only the stored pixels have the size asked for: some tools annotate those. `reduction` (1, 2, 4, 8,
    a divisor of height and width) gives an image smaller by that factor, of which each pixel is a mean of the file's.
    Errors: ImageFault for a file that is absent, empty, truncated, no image, or of another size.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise ImageFault(f"{path} cannot be read: {error.strerror or error}") from None
    image = _decode(path, data, REDUCED[reduction])
    if height is None or width is None:
        return image
    wanted = (height // reduction, width // reduction)
    # A side that is a few pixels short is rounded up to the same one.
    if reduction == 1 or sorted(read_size(path)) == sorted((height, width)):
        if image.shape[:2] == wanted:
            return image
        stored = _decode(path, data, REDUCED[reduction] | cv2.IMREAD_IGNORE_ORIENTATION)
        if stored.shape[:2] == wanted:
            return stored
    if reduction > 1:
        image = _decode(path, data, cv2.IMREAD_COLOR)
    raise ImageFault(
        f"{path} is {image.shape[0]} x {image.shape[1]} pixels (height x width), its annotation says {height} x {width}"
    )


def read_size(path: str | Path) -> tuple[int, int]:
    """Height and width as a viewer shows the image, from the file's header alone. Errors: ImageFault."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(EXIF_ORIENTATION) in EXIF_QUARTER_TURNS
    except UnidentifiedImageError:
        raise ImageFault(f"{path} is not an image that can be decoded") from None
    except OSError as error:
        raise ImageFault(f"{path} cannot be read: {error.strerror or error}") from None
    return (width, height) if turned else (height, width)


def _decode(path: str | Path, data: npt.NDArray[np.uint8], flags: int) -> npt.NDArray[np.uint8]:
    # From memory, not cv2.imread: that one fills the missing part of a truncated JPEG with grey and says nothing.
    try:
        image = cv2.imdecode(data, flags)
    except cv2.error:  # empty, or larger than OpenCV's limit of 2^30 pixels
        image = None
    if image is None:
        raise ImageFault(f"{path} is truncated or not an image that can be decoded")
    return np.asarray(image, np.uint8)
