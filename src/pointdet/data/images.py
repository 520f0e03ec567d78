# SPDX-License-Identifier: Apache-2.0
"""Image file -> BGR pixels, or an ImageFault with the reason in one sentence."""

from __future__ import annotations

import errno
import mmap
import os
import stat
import time
from pathlib import Path

import cv2
import numpy as np

from pointdet.arrays import UInt8Array
from pointdet.data import image_header
from pointdet.data.image_header import HeaderFault
from pointdet.data.library_output import without_library_output

PAUSES = (0.2, 1.0, 4.0)  # seconds between the attempts to read a file
PASSING = {
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EAGAIN,
    errno.EINTR,
    errno.ENOLINK,
    errno.EREMOTEIO,
}
MOST_HEADERS = 1 << 16  # bytes; nearly all headers are shorter
MAX_SIDE = 32766  # pixels; OpenCV's warpAffine, which makes the network's input, takes no longer sides


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
    data = _read(path)
    _check(path, data)
    image = _decode(path, data, REDUCED[reduction])
    if height is None or width is None:
        return image
    wanted = (height // reduction, width // reduction)
    # The decoder rounds sides up, so check the full size: a slightly smaller image gives the same reduced
    # size.
    if reduction == 1 or sorted(image_header.size(data)) == sorted((height, width)):
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
        with open(path, "rb", opener=_opener) as file:
            # Other threads run while this one reads, but not while the first access of a mapped page waits.
            os.pread(file.fileno(), MOST_HEADERS, 0)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return image_header.turned_size(data)
    except (HeaderFault, ValueError):  # ValueError: mmap of an empty file
        raise ImageFault(f"{path} is not an image that can be decoded") from None
    except OSError as error:
        raise ImageFault(f"{path} cannot be read: {error.strerror or error}") from None


def _read(path: str | Path) -> bytes:
    """The content of a file. An error that network storage can have for a moment is tried again."""
    pauses = iter(PAUSES)
    while True:
        try:
            with open(path, "rb", opener=_opener) as file:
                return file.read()
        except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
            passing = isinstance(error, OSError) and error.errno in PASSING
            if not passing or (pause := next(pauses, None)) is None:
                reason = getattr(error, "strerror", None) or error
                raise ImageFault(f"{path} cannot be read: {reason}") from None
            time.sleep(pause)


def _opener(path: str, flags: int) -> int:
    """Open a file, but not a pipe or device, which may never end. Opening a pipe would wait for its writer."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("it is not a file")
    return descriptor


def _check(path: str | Path, data: bytes) -> None:
    """Errors: ImageFault if the header is damaged, or asks for too much memory."""
    try:
        excess = image_header.excess(data)
    except HeaderFault:
        raise ImageFault(f"{path} is truncated or not an image that can be decoded") from None
    if excess is not None:
        raise ImageFault(f"{path} {excess}; replace it")


def _decode(path: str | Path, data: bytes, flags: int) -> UInt8Array:
    # Not cv2.imread: it fills the missing part of a truncated JPEG with grey without an error.
    try:
        with without_library_output():
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # a damaged file, or more than OpenCV's limit of 2^30 pixels
        image = None
    if image is None:
        raise ImageFault(f"{path} is truncated or not an image that can be decoded")
    if max(image.shape[:2]) > MAX_SIDE:
        raise ImageFault(
            f"{path} is {image.shape[0]} x {image.shape[1]} pixels (height x width), but OpenCV transforms only images "
            f"with sides of up to {MAX_SIDE}; cut it into parts"
        )
    return np.asarray(image, np.uint8)
