# SPDX-License-Identifier: Apache-2.0
"""Zip files whose members can be read without surprises: their sizes are bounded by that of the file."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_DIRECTORY = 1 << 22  # bytes of a zip directory, for which zipfile needs ten times as much memory
MAX_RATIO = 1032  # bytes that deflate can make of one byte

# What zipfile raises for damaged, encrypted (RuntimeError) and unusual files, and for damaged members.
ERRORS = (
    zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, OverflowError, ValueError, EOFError, struct.error,
    zlib.error,
)  # fmt: skip


class _ShortReads(io.FileIO):
    """A file that refuses long reads of its directory, which zipfile reads at once, however long it is."""

    in_directory = True

    def read(self, size: int | None = -1, /) -> bytes:
        if self.in_directory and size is not None and size > MAX_DIRECTORY:
            raise zipfile.BadZipFile("its directory is too long")
        return super().read(size) or b""


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive, whose directory has at most 4 MiB. Errors: those of `ERRORS`."""
    with _ShortReads(path) as file, zipfile.ZipFile(file) as archive:
        file.in_directory = False
        yield archive


def check_sizes(archive: zipfile.ZipFile, size: int) -> int:
    """The number of bytes of all members together. `size`: of the file.

    Errors: BadZipFile if a member is neither stored nor deflated, or if the file is too small for its members.
    """
    total = 0
    for member in archive.infolist():
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise zipfile.BadZipFile("a member has an unusual compression")
        ratio = 1 if member.compress_type == zipfile.ZIP_STORED else MAX_RATIO
        if member.file_size > ratio * min(member.compress_size, size):
            raise zipfile.BadZipFile("a member is larger than its part of the file")
        total += member.file_size
    if total > MAX_RATIO * size:
        raise zipfile.BadZipFile("its members are larger than the file")
    return total
