# SPDX-License-Identifier: Apache-2.0
"""Put a pack together on the GPU machine.

python3 benchmarks/gpu/pack/unpack.py stash PART...   keep parts and check their SHA-256
python3 benchmarks/gpu/pack/unpack.py all             stashed parts -> root/ and env.sh, and a test of the imports
python3 benchmarks/gpu/pack/unpack.py status          which parts are missing

Everything is in the folder POINTDET_GPU, by default ~/pointdet_gpu. manifest.json must be beside the parts.
Needs Python 3.8 or newer, standard library only. On a machine that takes uploads of limited size, upload and
stash one part after the other.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from environment import prepare
from lz4 import Lz4

FOLDER = Path(os.environ.get("POINTDET_GPU", "~/pointdet_gpu")).expanduser()
LZ4_LIBRARY = "deps/liblz4.so.1"
BLOCK = 1 << 24  # bytes that are read at once


class PackError(Exception):
    """A part is missing or damaged."""


def main(arguments: list[str]) -> int:
    command, parts = (arguments or [""])[0], [Path(part) for part in arguments[1:]]
    try:
        if command == "stash" and parts:
            stash(parts, FOLDER)
        elif command == "status" and not parts:
            status(FOLDER)
        elif command == "all" and not parts:
            started = time.monotonic()
            count = unpack(FOLDER, FOLDER / "root")
            print(f"{count} files with the right SHA-256, {time.monotonic() - started:.0f} s", flush=True)
            prepare(FOLDER)
        else:
            print(__doc__)
            return 2
    except PackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def stash(parts: list[Path], folder: Path) -> None:
    """Copy parts to `folder`/parts. Parts of another pack are removed."""
    source = parts[0].parent / "manifest.json"
    if not source.exists():
        raise PackError(f"{source} is missing; upload it with the parts")
    manifest = json.loads(source.read_text(encoding="utf-8"))
    kept = folder / "parts"
    if kept.exists() and read_manifest(folder)["name"] != manifest["name"]:
        shutil.rmtree(kept)
    kept.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(str(source), str(folder / "manifest.json"))
    expected = {part["name"]: part["sha256"] for part in manifest["parts"]}
    for part in parts:
        data = part.read_bytes()
        if expected.get(part.name) != hashlib.sha256(data).hexdigest():
            raise PackError(
                f"{part} is damaged, or is not a part of pack {manifest['name']}; upload it again"
            )
        writing = kept / (part.name + ".writing")
        writing.write_bytes(data)
        writing.replace(kept / part.name)
    status(folder)


def status(folder: Path) -> list[str]:
    """Print and return the names of the parts that are missing."""
    manifest = read_manifest(folder)
    names = [part["name"] for part in manifest["parts"]]
    missing = [name for name in names if not (folder / "parts" / name).exists()]
    print(
        f"pack {manifest['name']}: {len(names) - len(missing)} of {len(names)} parts; "
        f"missing: {' '.join(missing) or 'none'}",
        flush=True,
    )
    return missing


def read_manifest(folder: Path) -> dict:
    file = folder / "manifest.json"
    if not file.exists():
        raise PackError(f"there is no {file}; stash the parts first")
    return json.loads(file.read_text(encoding="utf-8"))


def unpack(folder: Path, root: Path) -> int:
    """Write all files of the stashed pack below `root`, check them, and return their number."""
    missing = status(folder)
    if missing:
        raise PackError(f"stash {' '.join(missing)} first")
    manifest = read_manifest(folder)
    pack = join([folder / "parts" / part["name"] for part in manifest["parts"]])
    size = manifest["index"]["size"]
    if hashlib.sha256(pack[:size]).hexdigest() != manifest["index"]["sha256"]:
        raise PackError("the index is damaged; stash all parts again")
    index = json.loads(lzma.decompress(pack[:size]))
    if root.exists():
        shutil.rmtree(str(root))
    Unpacker(index, memoryview(pack)[size:], root).run()
    return len(index["files"])


def join(parts: list[Path]) -> bytes:
    """The content of the parts, one after the other."""
    return b"".join(part.read_bytes() for part in parts)


class Unpacker:
    """Writes the files of an index (see parts.py). Chunks are decompressed in several threads."""

    def __init__(self, index: dict, chunks: memoryview, root: Path) -> None:
        self._table, self._files, self._links = index["chunks"], index["files"], index["links"]
        self._chunks, self._root = chunks, root
        self._lz4: Lz4 | None = None
        self._pieces: dict[int, list] = {}  # number of the chunk -> (path, piece)
        for path, (_, _, _, pieces) in self._files.items():
            for piece in pieces:
                self._pieces.setdefault(piece[0], []).append((path, piece))

    def run(self) -> None:
        """Errors: PackError if a file has the wrong content."""
        for path, (mode, size, _, _) in self._files.items():
            target = self._root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                file.truncate(size)  # what no piece writes is zero
            target.chmod(mode)
        for path, target_of_link in self._links.items():
            link = self._root / path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target_of_link)
        if LZ4_LIBRARY in self._files:  # the code of CUDA libraries needs it
            for number in {piece[0] for piece in self._files[LZ4_LIBRARY][3]}:
                self._write_chunk(number, only=LZ4_LIBRARY)
            self._lz4 = Lz4(str(self._root / LZ4_LIBRARY))
        largest_first = sorted(range(len(self._table)), key=lambda number: -self._table[number][2])
        with ThreadPoolExecutor(os.cpu_count() or 4) as pool:
            list(pool.map(self._write_chunk, largest_first))
            damaged = [path for path in pool.map(self._damaged, self._files) if path is not None]
        if damaged:
            raise PackError(f"{len(damaged)} files have the wrong content, the first is {damaged[0]}")

    def _write_chunk(self, number: int, only: str | None = None) -> None:
        """Write the pieces of one chunk, or only those of one file."""
        start, size, _, digest = self._table[number]
        packed = self._chunks[start : start + size]
        if hashlib.sha256(packed).hexdigest() != digest:
            raise PackError(f"chunk {number} is damaged; stash all parts again")
        content = memoryview(lzma.decompress(packed))
        open_path, file = None, None
        for path, (_, at, length, position, lz4_length) in self._pieces.get(number, ()):
            if path != (only or path) or (only is None and path == LZ4_LIBRARY):
                continue
            if path != open_path:
                if file is not None:
                    file.close()
                open_path, file = path, (self._root / path).open("r+b")
            data = content[at : at + length]
            file.seek(position)
            file.write(self._compressed(bytes(data), lz4_length) if lz4_length else data)
        if file is not None:
            file.close()

    def _compressed(self, code: bytes, length: int) -> bytes:
        """Code as it is in NVIDIA's library, with `length` bytes."""
        if self._lz4 is None:
            raise PackError("the pack has no liblz4; make it again on a machine that has it")
        packed = self._lz4.compress(code)
        if len(packed) != length:
            raise PackError(f"liblz4 gives {len(packed)} bytes of code instead of {length}")
        return packed

    def _damaged(self, path: str) -> str | None:
        """The path, if the file has the wrong content."""
        digest = hashlib.sha256()
        with (self._root / path).open("rb") as file:
            block = file.read(BLOCK)
            while block:
                digest.update(block)
                block = file.read(BLOCK)
        return None if digest.hexdigest() == self._files[path][2] else path


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
