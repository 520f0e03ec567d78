# SPDX-License-Identifier: Apache-2.0
"""Reader of NumPy's .npz files: numbers only, and no more memory than the file can fill.

NumPy's own reader evaluates the header of an array as Python, and allocates the size that it claims.
"""

from __future__ import annotations

import math
import re
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from pointdet.arrays import AnyArray
from pointdet.available_memory import require
from pointdet.weights import zip_file

MAGIC = re.compile(rb"\x93NUMPY([\x01-\x03])\x00")
MAX_HEADER = 10_000  # bytes, as in NumPy
# As NumPy writes it: {'descr': '<f4', 'fortran_order': False, 'shape': (4, 3), }
HEADER = re.compile(
    rb"\{'descr': '([<>|=]?[?biufc]\d{0,2})', 'fortran_order': (True|False), 'shape': \(((?:\d{1,18}, ?)*\d{0,18})\), \}\s*"
)


def read(path: Path) -> dict[str, AnyArray]:
    """The arrays by name. Errors: ValueError for an array that is damaged or has no numbers; zip_file.ERRORS;
    PointDetError if the arrays do not fit into the memory."""
    with zip_file.opened(path) as archive:
        total = zip_file.check_sizes(archive, path.stat().st_size)
        require(total, f"reading {path}", "give a file of weights")
        members = archive.infolist()
        return {member.filename.removesuffix(".npy"): _array(archive, member) for member in members}


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> AnyArray:
    with archive.open(member) as file:
        dtype, fortran_order, shape, start = _header(file)
        if start + math.prod(shape) * dtype.itemsize != member.file_size:
            raise ValueError("an array has another size than its header says")
        values = np.frombuffer(file.read(), dtype)
    return values.reshape(shape, order="F" if fortran_order else "C")


def _header(file: IO[bytes]) -> tuple[np.dtype[np.generic], bool, tuple[int, ...], int]:
    """Type, whether the order is Fortran's, shape, and the position of the first value."""
    magic = MAGIC.fullmatch(file.read(8))
    if magic is None:
        raise ValueError("a member is not an array")
    width = 2 if magic[1] == b"\x01" else 4  # bytes of the header's length
    length = int.from_bytes(file.read(width), "little")
    if length > MAX_HEADER:
        raise ValueError("the header of an array is too long")
    header = HEADER.fullmatch(file.read(length))
    if header is None:
        raise ValueError("an array does not consist of numbers")
    shape = tuple(int(side) for side in header[3].replace(b",", b" ").split())
    return np.dtype(header[1].decode("ascii")), header[2] == b"True", shape, 8 + width + length
