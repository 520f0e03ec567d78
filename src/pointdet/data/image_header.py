# SPDX-License-Identifier: Apache-2.0
"""Size and EXIF orientation of an image from its header, without decoding it, and a bound for decoders.

A header can claim any size: a damaged PNG of 344 bytes can ask its decoder for gigabytes. An image of more than 32
million pixels is refused if its file is too small for it, or if its pixels do not fit into the memory.

The formats are JPEG, PNG, BMP, WebP, TIFF, JPEG 2000 and PNM. An offset that leaves the file is a damaged header.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator

from pointdet.available_memory import available_bytes

SMALL = 1 << 25  # pixels; smaller images are decoded without further checks
# Pixels that a byte of a file can stand for: deflate makes 1,032 bytes of one, with 8 pixels in a byte.
MAX_PIXELS_PER_BYTE = 1032 * 8
BYTES_PER_PIXEL = 8  # while decoding: BGR of 16 bits, or of 8 bits and its copy

QUARTER_TURNS = (5, 6, 7, 8)  # orientations that swap height and width
WIDTH, HEIGHT, ORIENTATION = 0x100, 0x101, 0x112  # tags of TIFF and EXIF
MAX_TAGS = 4096
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG markers that have the size
NO_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))  # JPEG markers without a segment
PNM = re.compile(rb"P[1-6]\s(?:\s|#[^\n]{0,999}\n){0,99}(\d{1,9})\s(?:\s|#[^\n]{0,999}\n){0,99}(\d{1,9})\s")

Data = bytes | mmap.mmap


class HeaderFault(Exception):
    """The header is damaged, or of another format."""


def size(data: Data) -> tuple[int, int]:
    """Height and width of the stored pixels. `data`: the file. Errors: HeaderFault."""
    height, width, _ = _header(data)
    return height, width


def turned_size(data: Data) -> tuple[int, int]:
    """Height and width after EXIF orientation. Damaged EXIF counts as none, as in OpenCV. Errors: HeaderFault."""
    height, width, orientation = _header(data)
    return (width, height) if orientation in QUARTER_TURNS else (height, width)


def excess(data: Data) -> str | None:
    """Why decoding the image would take too much memory, or None. Errors: HeaderFault."""
    height, width = size(data)
    if height * width <= SMALL:
        return None
    claim = f"claims to have {height} x {width} pixels (height x width)"
    if height * width > MAX_PIXELS_PER_BYTE * len(data):
        return f"{claim}, but has only {len(data)} bytes"
    if height * width * BYTES_PER_PIXEL > available_bytes():
        return f"{claim}, which do not fit into the memory"
    return None


def _header(data: Data) -> tuple[int, int, int]:
    """Height, width and orientation."""
    start = bytes(data[:12])
    try:
        if start.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if start.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height = _unpack(">II", data, 16)
            return height, width, _orientation(_chunk(data, b"eXIf", 8, ">I4s", 12))
        if start.startswith(b"RIFF") and start[8:] == b"WEBP":
            return (*_webp(data), _orientation(_chunk(data, b"EXIF", 12, "<4sI", 8)))
        if start[:4] in (b"II*\0", b"MM\0*"):
            tags = dict(_tags(data))
            return tags[HEIGHT], tags[WIDTH], tags.get(ORIENTATION, 1)
        height, width = _plain(data, start)
    except (struct.error, KeyError):
        raise HeaderFault from None
    return height, width, 1


def _plain(data: Data, start: bytes) -> tuple[int, int]:
    """Height and width of the formats without EXIF."""
    if start.startswith(b"BM"):
        old = _unpack("<I", data, 14)[0] == 12
        width, height = _unpack("<HH" if old else "<ii", data, 18)
        return abs(height), abs(width)
    if start.startswith(b"\0\0\0\x0cjP  ") and data.find(b"ihdr", 0, 1024) > 0:
        height, width = _unpack(">II", data, data.find(b"ihdr", 0, 1024) + 4)
        return height, width
    if start.startswith(b"\xff\x4f\xff\x51"):
        right, bottom, left, top = _unpack(">IIII", data, 8)
        return bottom - top, right - left
    found = PNM.match(data)
    if found is None:
        raise HeaderFault
    return int(found[2]), int(found[1])


def _jpeg(data: Data) -> tuple[int, int, int]:
    """Reads the segments up to the first frame. Bytes between them are skipped, as decoders do."""
    at, orientation = 2, 1
    while True:
        at = data.find(b"\xff", at)
        if at < 0:
            raise HeaderFault
        (marker,) = _unpack("B", data, at + 1)
        at += 1
        if marker in (0x00, 0xFF) or marker in NO_LENGTH:
            continue
        (length,) = _unpack(">H", data, at + 1)
        if marker in FRAMES:
            height, width = _unpack(">HH", data, at + 4)
            return height, width, orientation
        if marker == 0xE1 and data[at + 3 : at + 9] == b"Exif\0\0":
            orientation = _orientation(data[at + 9 : at + 1 + length])
        at += 1 + length


def _webp(data: Data) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = _unpack("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    if kind == b"VP8L":
        (bits,) = _unpack("<I", data, 21)
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    if kind == b"VP8X":
        width, height = (int.from_bytes(bytes(data[at : at + 3]), "little") for at in (24, 27))
        return 1 + height, 1 + width
    raise HeaderFault


def _chunk(data: Data, name: bytes, at: int, layout: str, overhead: int) -> bytes:
    """The first chunk of that name in PNG or WebP, or b"". `layout`: of length and name; `overhead`: bytes of a chunk
    besides its content."""
    while at + 8 <= len(data):
        fields = struct.unpack_from(layout, data, at)
        found, length = fields if isinstance(fields[0], bytes) else fields[::-1]
        if found == name:
            return bytes(data[at + 8 : at + 8 + length])
        at += overhead + length + (length & 1 if overhead == 8 else 0)  # WebP fills up to even lengths
    return b""


def _orientation(exif: bytes) -> int:
    try:
        return dict(_tags(exif)).get(ORIENTATION, 1)
    except (struct.error, HeaderFault):
        return 1


def _tags(data: Data) -> Iterator[tuple[int, int]]:
    """Tag and value of the numbers in the first directory of a TIFF file or of EXIF."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    if order is None:
        raise HeaderFault
    (at,) = _unpack(order + "I", data, 4)
    (count,) = _unpack(order + "H", data, at)
    for number in range(min(count, MAX_TAGS)):
        entry = at + 2 + 12 * number
        tag, kind, values = _unpack(order + "HHI", data, entry)
        if kind in (3, 4) and values == 1:
            yield tag, _unpack(order + ("H" if kind == 3 else "I"), data, entry + 8)[0]


def _unpack(layout: str, data: Data, at: int) -> tuple[int, ...]:
    if at < 0:
        raise HeaderFault
    return struct.unpack_from(layout, data, at)
