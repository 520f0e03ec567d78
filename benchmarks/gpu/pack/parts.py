# SPDX-License-Identifier: Apache-2.0
"""The parts of a pack: an index and the compressed chunks, cut into files that an upload takes.

The first bytes are the index (JSON, xz): chunks as [position, size, uncompressed size, SHA-256], files as
[mode, size, SHA-256, pieces], links. manifest.json describes the parts.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from pathlib import Path

from chunks import Chunks


def write_parts(
    chunks: Chunks, compressed: list[bytes], folder: Path, limit: int, description: dict[str, object]
) -> list[Path]:
    """Write manifest.json and parts of at most `limit` bytes and of equal size. Old parts are removed.

    `description`: more entries of the manifest.
    """
    table, position = [], 0
    for content, packed in zip(chunks.contents, compressed, strict=True):
        table.append([position, len(packed), len(content), _sha256(packed)])
        position += len(packed)
    text = json.dumps({"chunks": table, "files": chunks.files, "links": chunks.links}, sort_keys=True)
    index = lzma.compress(text.encode(), check=lzma.CHECK_CRC32)
    pack = index + b"".join(compressed)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("part-*"):
        old.unlink()
    parts = split(pack, limit)
    files = [folder / f"part-{number:02d}" for number in range(len(parts))]
    for file, part in zip(files, parts, strict=True):
        file.write_bytes(part)
    manifest = {
        **description,
        "name": _sha256(pack)[:16],
        "index": {"size": len(index), "sha256": _sha256(index)},
        "unpacked": sum(size for _, size, _, _ in chunks.files.values()),
        "parts": [
            {"name": file.name, "size": len(part), "sha256": _sha256(part)}
            for file, part in zip(files, parts, strict=True)
        ],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", "utf-8")
    return files


def split(pack: bytes, limit: int) -> list[bytes]:
    """The fewest parts of at most `limit` bytes. Their sizes are equal, but for the last."""
    count = -(-len(pack) // limit)
    size = -(-len(pack) // count)
    return [pack[start : start + size] for start in range(0, len(pack), size)]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
