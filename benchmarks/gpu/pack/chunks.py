# SPDX-License-Identifier: Apache-2.0
"""The content of a pack: files are cut into pieces, the pieces are joined into chunks and compressed with xz.

Machine code, other binary files and text are in separate chunks, because they compress with different
settings. The code of CUDA libraries is stored uncompressed, and the GPU machine compresses it again with LZ4:
xz makes it much smaller than LZ4 does. Equal pieces are stored once.
"""

from __future__ import annotations

import hashlib
import lzma
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fatbin import Pruned
from tree import Tree

MIB = 1 << 20
CHUNK_SIZE = 96 * MIB  # uncompressed
PIECE_SIZE = 32 * MIB
CODE, BINARY, TEXT = "code", "binary", "text"

# Most of the ratio of xz -9 in a third of its time. Instructions of a GPU have 16 bytes.
CODE_FILTER = {
    "id": lzma.FILTER_LZMA2,
    "preset": 6,
    "dict_size": CHUNK_SIZE,
    "lc": 0,
    "lp": 4,
    "pb": 4,
    "mf": lzma.MF_HC4,
    "nice_len": 32,
    "depth": 8,
}
OTHER_FILTER = {
    "id": lzma.FILTER_LZMA2,
    "preset": 6,
    "dict_size": 64 * MIB,
    "mf": lzma.MF_BT4,
    "nice_len": 32,
    "depth": 8,
}

# Chunk, position in it, length, position in the file, and the LZ4 length of the piece in the file or 0.
Piece = tuple[int, int, int, int, int]


class Chunks:
    """The chunks, and for each file its mode, size, SHA-256 and pieces. Bytes without a piece are zeros."""

    def __init__(self, tree: Tree) -> None:
        self.kinds: list[str] = []
        self.contents: list[bytearray] = []
        self.groups: list[dict[str, int]] = []  # for each chunk: bytes of each group
        self.files: dict[str, tuple[int, int, str, list[Piece]]] = {}
        self.links = tree.links
        self._open: dict[str, int] = {}
        self._seen: dict[tuple[str, bytes], tuple[int, int]] = {}
        for path in sorted(tree.files, key=lambda p: (tree.files[p].group, os.path.splitext(p)[1], p)):
            data, executable, group = tree.files[path]
            whole = data.data if isinstance(data, Pruned) else data
            if isinstance(data, Pruned):
                pieces = self._pruned(data, group)
            else:
                pieces = self._span(data, 0, BINARY if data[:4] == b"\x7fELF" else TEXT, group)
            mode = 0o755 if executable else 0o644
            self.files[path] = (mode, len(whole), hashlib.sha256(whole).hexdigest(), pieces)

    def compress(self, jobs: int, cache: Path) -> list[bytes]:
        """The compressed chunks. `cache`: folder of chunks that an earlier run compressed."""
        cache.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(jobs) as pool:
            return list(
                pool.map(
                    lambda n: _compressed(self.kinds[n], self.contents[n], cache), range(len(self.kinds))
                )
            )

    def _pruned(self, library: Pruned, group: str) -> list[Piece]:
        """The pieces of a CUDA library."""
        pieces: list[Piece] = []
        others: list[tuple[int, int]] = []  # spans of host code and headers
        spans = [(start, end, None) for start, end in library.zeros]
        spans += [(start, end, b"") for start, end in library.code]
        spans += [(start, start + size, unpacked) for start, size, unpacked in library.packed_code]
        position = 0
        for start, end, code in sorted(spans, key=lambda span: span[0]):
            if start < position:
                raise ValueError(f"two spans of a library overlap at {start:#x}")
            others.append((position, start))
            position = end
            if code is None:
                continue
            if code:
                chunk, at = self._put(CODE, code, group)
                pieces.append((chunk, at, len(code), start, end - start))
            else:
                pieces += self._span(library.data[start:end], start, CODE, group)
        others.append((position, len(library.data)))
        return pieces + self._joined(library.data, others, group)

    def _joined(self, data: bytes, spans: list[tuple[int, int]], group: str) -> list[Piece]:
        """Many small spans, stored as one: an entry of `_seen` for each would cost too much."""
        pieces: list[Piece] = []
        remaining = deque((start, end) for start, end in spans if start < end)
        stored = b"".join(data[start:end] for start, end in remaining)
        for chunk, position, length, _, _ in self._span(stored, 0, BINARY, group):
            end_of_piece = position + length
            while position < end_of_piece:
                start, end = remaining.popleft()
                size = min(end - start, end_of_piece - position)
                pieces.append((chunk, position, size, start, 0))
                position += size
                if start + size < end:
                    remaining.appendleft((start + size, end))
        return pieces

    def _span(self, data: bytes, position: int, kind: str, group: str) -> list[Piece]:
        """The pieces of a span of a file that begins at `position`."""
        pieces = []
        for start in range(0, len(data), PIECE_SIZE):
            part = data[start : start + PIECE_SIZE]
            chunk, at = self._put(kind, part, group)
            pieces.append((chunk, at, len(part), position + start, 0))
        return pieces

    def _put(self, kind: str, data: bytes, group: str) -> tuple[int, int]:
        """Store bytes and return the number of the chunk and the position in it."""
        key = (kind, hashlib.sha256(data).digest())
        if key in self._seen:
            return self._seen[key]
        number = self._open.get(kind)
        if number is None or len(self.contents[number]) + len(data) > CHUNK_SIZE:
            number = self._open[kind] = len(self.contents)
            self.kinds.append(kind)
            self.contents.append(bytearray())
            self.groups.append({})
        content = self.contents[number]
        self._seen[key] = number, len(content)
        content += data
        self.groups[number][group] = self.groups[number].get(group, 0) + len(data)
        return self._seen[key]


def _compressed(kind: str, content: bytearray, cache: Path) -> bytes:
    filters = [CODE_FILTER if kind == CODE else OTHER_FILTER]
    key = hashlib.sha256(repr(filters).encode() + content).hexdigest()
    file = cache / key
    if not file.exists():
        packed = lzma.compress(content, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC32, filters=filters)
        writing = cache / f"{key}.writing"
        writing.write_bytes(packed)
        writing.replace(file)
        print(f"{kind}: {len(content) / 1e6:.0f} MB -> {len(packed) / 1e6:.1f} MB", flush=True)
    return file.read_bytes()
