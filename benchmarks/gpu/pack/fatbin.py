# SPDX-License-Identifier: Apache-2.0
"""Removal of the machine code of other GPUs from a CUDA library.

CUDA libraries contain machine code for 6 to 9 generations of GPUs, in "fatbins" in the ELF sections
.nv_fatbin and __nv_relfatbin. A fatbin is a header of 16 bytes (magic, version, size of the header, size of
what follows) and entries. An entry is a header (kind, sizes, architecture, flags) and its payload: machine
code (ELF) or PTX, which may be compressed with LZ4.

The pruned library has the same size and layout. Of each fatbin only the entries that the GPU loads are kept.
They move to the front, the size in the header shrinks, and zeros follow, which compress to nothing. The
address of the fatbin, to which the library's registration record points, does not change.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from lz4 import Lz4

SECTIONS = (".nv_fatbin", "__nv_relfatbin")
MAGIC = b"\x50\xed\x55\xba"
HEADER = struct.Struct("<4sHHQ")  # magic, version, size of this header, size of the entries
ENTRY = struct.Struct("<HHIQIIHHIIIQQQ")
PTX, ELF = 1, 2
COMPRESSED = 0x2000  # flag of an entry
NO_BITS = 8  # type of an ELF section without bytes in the file
SMALL = 256  # bytes: shorter payloads are not treated separately


class Entry(NamedTuple):
    """An entry of a fatbin."""

    start: int  # in the file
    kind: int  # PTX or ELF
    header_size: int
    size: int  # of the payload
    packed_size: int  # of the LZ4 data in the payload
    arch: int  # compute capability x 10
    flags: int
    unpacked_size: int

    @property
    def end(self) -> int:
        return self.start + self.header_size + self.size


class Fatbin(NamedTuple):
    start: int
    header_size: int
    entries_size: int
    entries: list[Entry]


@dataclass
class Pruned:
    """A pruned library: its bytes, and what the pack can store better than these bytes."""

    data: bytes
    zeros: list[tuple[int, int]] = field(default_factory=list)  # (start, end) of spans of zeros
    code: list[tuple[int, int]] = field(default_factory=list)  # (start, end) of machine code, not compressed
    packed_code: list[tuple[int, int, bytes]] = field(default_factory=list)  # (start, size, unpacked bytes)

    def clear(self, start: int, end: int) -> None:
        """Set a span of the file to zeros."""
        self.data = self.data[:start] + bytes(end - start) + self.data[end:]
        self.zeros.append((start, end))


def prune(library: bytes, sm: int, lz4: Lz4 | None) -> Pruned:
    """Keep what a GPU of compute capability `sm` (x 10) loads.

    From each fatbin this is the machine code of the newest architecture that has the same major version and
    is not newer than `sm`, or else the newest PTX. A fatbin without either gets the smallest entry of another
    GPU: the driver refuses it for its architecture, as before. LZ4 payloads that `lz4` reproduces exactly are
    returned as `packed_code`.
    Errors: ValueError if the file is not understood.
    """
    data = bytearray(library)
    fatbins = [
        fatbin
        for name, start, size in elf_sections(library)
        if name in SECTIONS
        for fatbin in read_fatbins(library, name, start, start + size)
    ]
    result = Pruned(b"")
    substitute = _smallest_of_other_gpus(fatbins, sm)
    for fatbin in fatbins:
        kept = _loaded_entries(fatbin, sm)
        position = fatbin.start + fatbin.header_size
        end = position + fatbin.entries_size
        bodies = [library[entry.start : entry.end] for entry in kept or substitute]
        size = sum(map(len, bodies))
        if not 0 < size <= fatbin.entries_size:
            raise ValueError(f"the entries that are kept do not fit the fatbin at {fatbin.start:#x}")
        data[position:end] = b"".join(bodies) + bytes(fatbin.entries_size - size)
        struct.pack_into("<Q", data, fatbin.start + 8, size)
        if position + size < end:
            result.zeros.append((position + size, end))
        for entry, body in zip(kept, bodies, strict=True) if kept else ():
            _note_payload(result, entry, body, position + entry.header_size, lz4)
            position += len(body)
    result.data = bytes(data)
    return result


def _loaded_entries(fatbin: Fatbin, sm: int) -> list[Entry]:
    code = [e for e in fatbin.entries if e.kind == ELF and e.arch // 10 == sm // 10 and e.arch <= sm]
    candidates = code or [e for e in fatbin.entries if e.kind == PTX and e.arch <= sm]
    newest = max((entry.arch for entry in candidates), default=0)
    return [entry for entry in candidates if entry.arch == newest]


def _smallest_of_other_gpus(fatbins: list[Fatbin], sm: int) -> list[Entry]:
    others = [
        entry
        for fatbin in fatbins
        for entry in fatbin.entries
        if entry.kind == ELF and (entry.arch // 10 != sm // 10 or entry.arch > sm)
    ]
    return [min(others, key=lambda entry: entry.header_size + entry.size)] if others else []


def _note_payload(result: Pruned, entry: Entry, body: bytes, position: int, lz4: Lz4 | None) -> None:
    """`position`: of the payload in the pruned file."""
    payload = body[entry.header_size :]
    if entry.flags & COMPRESSED:
        if lz4 is None or entry.packed_size <= SMALL:
            return
        packed = payload[: entry.packed_size]
        unpacked = lz4.decompress(packed, entry.unpacked_size)
        if unpacked is not None and lz4.compress(unpacked) == packed:
            result.packed_code.append((position, entry.packed_size, unpacked))
    elif entry.kind == ELF and entry.size > SMALL:
        result.code.append((position, position + entry.size))


def elf_sections(library: bytes) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of the sections of a 64-bit ELF file that have bytes in the file."""
    table = struct.unpack_from("<Q", library, 0x28)[0]
    size, count, names_index = struct.unpack_from("<HHH", library, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", library, table + index * size) for index in range(count)]
    names = headers[names_index][4]
    for name, kind, _flags, _address, offset, length in headers:
        if kind != NO_BITS:
            end = library.index(b"\0", names + name)
            yield library[names + name : end].decode(), offset, length


def read_fatbins(library: bytes, section: str, position: int, end: int) -> Iterator[Fatbin]:
    """The fatbins of a section. Errors: ValueError if the section contains anything else."""
    while position < end:
        if library[position : position + 4] != MAGIC:
            if any(library[position : position + 8]):
                raise ValueError(f"unknown bytes in {section} at {position:#x}")
            position += 8  # padding
            continue
        _, _, header_size, entries_size = HEADER.unpack_from(library, position)
        start, entries = position, []
        position += header_size
        while position < start + header_size + entries_size:
            kind, _, own_size, size, packed, _, _, _, arch, _, _, flags, _, unpacked = ENTRY.unpack_from(
                library, position
            )
            entries.append(Entry(position, kind, own_size, size, packed, arch, flags, unpacked))
            position = entries[-1].end
        if position != start + header_size + entries_size:
            raise ValueError(f"damaged fatbin in {section} at {start:#x}")
        yield Fatbin(start, header_size, entries_size, entries)
