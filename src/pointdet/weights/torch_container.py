# SPDX-License-Identifier: Apache-2.0
"""The two layouts of torch's weight files, zip and legacy: from a file to its unpickled content and its storages."""

from __future__ import annotations

import io
import mmap
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pointdet.errors import PointDetError
from pointdet.weights.torch_pickle import KINDS, MAX_BYTES, Pickles, broken

MAX_DIRECTORY = 1 << 22  # bytes; a zip file's list of contents, of which zipfile makes ten times as much
MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the legacy layout
PROTOCOL = 1001  # its second


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes of the file."""

    start: int
    size: int
    crc: int = 0  # 0: none was written


@dataclass(frozen=True, slots=True)
class Container:
    """A weight file: its unpickled content, where the numbers of its storages lie by key, and their byte order."""

    content: Any
    places: dict[str, Place]
    byte_order: str = "<"


@dataclass(frozen=True, slots=True)
class MappedFile:
    """A file in memory as far as it is looked at; its arrays keep it there."""

    path: Path
    mapping: mmap.mmap

    @classmethod
    def open(cls, path: Path) -> MappedFile:
        """Errors: PointDetError when it is missing, empty or may not be read."""
        try:
            if not path.is_file():
                raise PointDetError(f"there is no weight file {path}; give an existing file")
            if not path.stat().st_size:
                raise PointDetError(f"{path} is empty; copy or download it again")
            with path.open("rb") as file:
                return cls(path, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            raise PointDetError(
                f"{path} cannot be read ({error.strerror}); check its name and permissions"
            ) from None

    def check(self, place: Place) -> None:
        """Refuse damaged bytes. Errors: PointDetError when they do not give their checksum."""
        with memoryview(self.mapping) as whole, whole[place.start : place.start + place.size] as part:
            if place.crc and zlib.crc32(part) != place.crc:
                raise broken(self.path, "its bytes do not give the checksum that stands beside them")

    def copy(self, place: Place) -> bytes:
        """The bytes at a place, checked."""
        self.check(place)
        return self.mapping[place.start : place.start + place.size]


def unpack(file: MappedFile) -> Container:
    """The layout is known by what stands in the file; names tell nothing. Errors: PointDetError for other files."""
    path, start = file.path, file.mapping[:512]
    if start.startswith(b"PK\3\4"):
        return _unpack_zip(file)
    if start[257:262] == b"ustar":
        raise PointDetError(
            f"{path} is a tar file, which only the first versions of torch wrote; "
            "with torch, torch.save(torch.load(FILE), NEW_FILE)"
        )
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < len(file.mapping):
        raise PointDetError(
            f"{path} is a safetensors file; with torch, torch.save(safetensors.torch.load_file(FILE), NEW_FILE)"
        )
    if start.lstrip().startswith(b"<"):
        raise PointDetError(
            f"{path} is a web page and no weight file, its download failed; open its address in a browser"
        )
    if start.startswith(b"\x80"):
        return _unpack_legacy(file)
    raise PointDetError(f"{path} is no weight file of torch; give a file that torch.save wrote")


def _unpack_zip(file: MappedFile) -> Container:
    """torch 1.6 and later: NAME/data.pkl, and each storage as NAME/data/KEY, all of them uncompressed."""
    members = _directory(file.path)
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise PointDetError(f"{file.path} is a zip file that torch.save did not write; give a weight file")
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in members:
        raise PointDetError(
            f"{file.path} is a TorchScript program; "
            "with torch, torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)"
        )
    places = _places(file, members)
    if places[pickles[0]].size > MAX_BYTES:
        raise PointDetError(
            f"{file.path} has a pickle of more than {MAX_BYTES >> 20} MiB beside its tensors; "
            "with torch, save only its state_dict into a new file"
        )
    content = Pickles(file.path, file.copy(places[pickles[0]])).next()
    order = file.copy(places[f"{prefix}byteorder"]) if f"{prefix}byteorder" in places else b"little"
    if order not in (b"little", b"big"):
        raise broken(file.path, "its byte order is neither little nor big")
    folder = f"{prefix}data/"
    storages = {name.removeprefix(folder): place for name, place in places.items() if name.startswith(folder)}
    return Container(content, storages, "<" if order == b"little" else ">")


class _ShortReads(io.FileIO):
    """A file for zipfile, which reads and unfolds the whole list of contents, however long it is."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = MAX_DIRECTORY
        if size > MAX_DIRECTORY:
            raise zipfile.BadZipFile
        return super().read(size) or b""


def _directory(path: Path) -> dict[str, zipfile.ZipInfo]:
    try:
        with _ShortReads(path) as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, OverflowError, ValueError, struct.error):
        raise broken(path, "its zip directory is missing or damaged") from None
    by_name = {member.filename: member for member in members}
    if len(by_name) < len(members):
        raise broken(path, "a name stands twice in its zip directory")
    return by_name


def _places(file: MappedFile, members: dict[str, zipfile.ZipInfo]) -> dict[str, Place]:
    """Where each member's bytes lie; none may lie in another."""
    places = {}
    free = 0
    for name, member in sorted(members.items(), key=lambda item: item[1].header_offset):
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise PointDetError(
                f"{file.path} was compressed or encrypted after torch.save wrote it; give the file as it was"
            )
        at = member.header_offset
        header = file.mapping[at : at + 30] if at >= free else b""
        if len(header) < 30 or not header.startswith(b"PK\3\4"):
            raise broken(file.path, "its zip members lie in each other or nowhere")
        place = Place(at + 30 + sum(struct.unpack("<HH", header[26:])), member.file_size, member.CRC)
        free = place.start + place.size
        if member.compress_size != member.file_size or free > len(file.mapping):
            raise broken(file.path, "its zip members lie in each other or nowhere")
        places[name] = place
    return places


def _unpack_legacy(file: MappedFile) -> Container:
    """Before torch 1.6: five pickles, then for each key of the fifth a count of 8 bytes and the numbers.

    The pickles: a magic number, the protocol, the system, the content, the keys of its storages.
    """
    pickles = Pickles(file.path, file.mapping[:MAX_BYTES])
    if pickles.next() != MAGIC or pickles.next() != PROTOCOL:
        raise PointDetError(f"{file.path} is a pickle that torch.save did not write; give a weight file")
    pickles.next()
    content, keys = pickles.next(), pickles.next()
    places = {}
    position = pickles.end
    for key in keys if isinstance(keys, list) else ():
        if not isinstance(key, str) or key not in pickles.storages:
            raise broken(file.path, "its list of storages is garbled")
        item = np.dtype(KINDS[pickles.storages[key].kind]).itemsize
        count = int.from_bytes(file.mapping[position : position + 8], "little")
        place = Place(position + 8, count * item)
        position = place.start + place.size
        if position > len(file.mapping):
            raise broken(file.path, "it breaks off in its numbers")
        places[key] = place
    return Container(content, places)
