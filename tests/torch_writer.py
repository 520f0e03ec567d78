# SPDX-License-Identifier: Apache-2.0
"""Weight files as torch.save writes them, opcode by opcode, for the tests of their reader."""

import io
import struct
import zipfile
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
KINDS = {
    "f8": "Double", "f4": "Float", "f2": "Half", "i8": "Long", "i4": "Int", "i2": "Short", "i1": "Char", "u1": "Byte",
    "b1": "Bool",
}  # fmt: skip


@dataclass(frozen=True)
class Name:
    """A function or class: "module name"."""

    text: str


@dataclass(frozen=True)
class Call:
    function: Name
    arguments: tuple


@dataclass(frozen=True)
class Persistent:
    """What stands for a storage."""

    identity: tuple


class Code(bytes):
    """Opcodes as they are."""


ORDERED_DICT = Name("collections OrderedDict")


def pickled(value, dialect="python 3"):
    """One pickle; dialect: "python 3" and "python 2", both of protocol 2, or "protocol 4"."""
    head = b"\x80\x02"
    if dialect == "protocol 4":
        head = b"\x80\x04\x95" + struct.pack("<Q", 0)  # a frame, whose length nobody needs
    return head + opcodes(value, dialect) + b"."


def opcodes(value, dialect="python 3"):
    def all_of(values):
        return b"".join(opcodes(one, dialect) for one in values)

    def mark_all(values):
        return b"(" + all_of(values)

    match value:
        case Code():
            return bytes(value)
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int() if -(2**31) <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        case int():
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(data)]) + data
        case float():
            return b"G" + struct.pack(">d", value)
        case str() if dialect == "python 2":
            return b"U" + bytes([len(value)]) + value.encode("ascii")
        case str() if dialect == "protocol 4":
            return b"\x8c" + bytes([len(value.encode())]) + value.encode() + b"\x94"
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return mark_all(value) + b"t"
        case list():
            return b"](" + all_of(value) + b"e"
        case OrderedDict() if dialect == "python 2":
            made = Call(ORDERED_DICT, ([[key, item] for key, item in value.items()],))
            return opcodes(made, dialect) + opcodes({"_metadata": {"version": 1}}, dialect) + b"b"
        case OrderedDict():
            filled = opcodes(Call(ORDERED_DICT, ()), dialect) + mark_all(sum(value.items(), ())) + b"u"
            return filled + opcodes({"_metadata": {"version": 1}}, dialect) + b"b"
        case dict():
            return b"}" + mark_all(sum(value.items(), ())) + b"u"
        case Name(text) if dialect == "protocol 4":
            return all_of(text.split(" ")) + b"\x93"
        case Name(text):
            return b"c" + text.replace(" ", "\n").encode() + b"\n"
        case Call(function, arguments):
            return opcodes(function, dialect) + opcodes(arguments, dialect) + b"R"
        case Persistent(identity):
            return opcodes(identity, dialect) + b"Q"
    raise TypeError(value)


@dataclass
class File:
    """Storages by key, and the file of a content that lies in them; layout: "zip" (torch 1.6) or "legacy"."""

    layout: str
    blocks: dict = field(default_factory=dict)  # key -> numbers

    def storage(self, numbers, kind=None, view=None):
        """A new storage of all numbers of an array; view: (start, count) of a part of it."""
        key = str(94000 + len(self.blocks))
        self.blocks[key] = numbers
        kind = Name(f"torch {kind or KINDS[numbers.dtype.str[1:]]}Storage")
        identity = ("storage", kind, key, "cuda:0", numbers.size)
        if self.layout == "legacy":
            identity = (*identity, view and ("5", *view))
        return Persistent(identity)

    def tensor(self, array, kind=None):
        """A new storage with a tensor that fills it."""
        strides = [stride // array.itemsize for stride in np.empty(array.shape, array.dtype).strides]
        return tensor(self.storage(array, kind), array.shape, strides)

    def written(self, content, dialect="python 3", prefix="archive", byte_order="little"):
        """The bytes of the file."""
        if self.layout == "legacy":
            return self.legacy(content, dialect)
        return zipped(self.members(content, dialect, prefix, byte_order))

    def members(self, content, dialect="python 3", prefix="archive", byte_order="little"):
        """Name -> bytes of all that lies in the zip file."""
        members = {"data.pkl": pickled(content, dialect), "byteorder": byte_order.encode(), "version": b"3\n"}
        for key, numbers in self.blocks.items():
            ordered = numbers.astype(numbers.dtype.newbyteorder("<" if byte_order == "little" else ">"))
            members[f"data/{key}"] = ordered.tobytes()
        return {f"{prefix}/{name}": data for name, data in members.items()}

    def legacy(self, content, dialect="python 3"):
        """Five pickles and the numbers."""
        system = {
            "protocol_version": 1001,
            "little_endian": True,
            "type_sizes": {"short": 2, "int": 4, "long": 4},
        }
        pickles = [pickled(value, dialect) for value in (MAGIC, 1001, system, content, list(self.blocks))]
        blocks = [struct.pack("<q", numbers.size) + numbers.tobytes() for numbers in self.blocks.values()]
        return b"".join(pickles + blocks)


def tensor(storage, size, strides, offset=0, old=False):
    """A tensor in a storage, all counted in numbers; old: as written before torch 0.4."""
    arguments = (storage, offset, tuple(size), tuple(strides))
    if old:
        return Call(Name("torch._utils _rebuild_tensor"), arguments)
    return Call(Name("torch._utils _rebuild_tensor_v2"), (*arguments, False, OrderedDict()))


def zipped(members):
    """A zip file of name -> bytes, not compressed."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()
