# SPDX-License-Identifier: Apache-2.0
"""LZ4 through liblz4, with the setting that reproduces the compressed code in NVIDIA's libraries.

Standard library only, for Python 3.8 or newer: the GPU machine uses it too.
"""

from __future__ import annotations

import ctypes

LEVEL = 1  # LZ4_compress_HC at this level gives the same bytes as NVIDIA's tools


class Lz4:
    """The functions of one liblz4.so.1."""

    def __init__(self, path: str) -> None:
        """Errors: OSError if the library cannot be loaded."""
        self._library = ctypes.CDLL(path)

    def compress(self, data: bytes) -> bytes:
        capacity = self._library.LZ4_compressBound(len(data))
        out = ctypes.create_string_buffer(capacity)
        size = self._library.LZ4_compress_HC(data, out, len(data), capacity, LEVEL)
        return out.raw[:size]

    def decompress(self, data: bytes, size: int) -> bytes | None:
        """The `size` bytes that `data` contains; None if it is not LZ4 of this size."""
        out = ctypes.create_string_buffer(size)
        found = self._library.LZ4_decompress_safe(data, out, len(data), size)
        return out.raw if found == size else None
