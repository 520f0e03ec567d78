# SPDX-License-Identifier: Apache-2.0
"""Weight files as torch.save writes them, without torch, for the tests of their reader."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np

KINDS = {
    "f8": "Double", "f4": "Float", "f2": "Half", "i8": "Long", "i4": "Int", "i2": "Short", "i1": "Char",
    "u1": "Byte", "b1": "Bool",
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
    """A placeholder for a storage."""

    identity: tuple


class Code(bytes):
    """Opcodes as they are."""


class Pickler(pickle._Pickler):
    """Python's own; dialect: "python 3" and "python 2", both of protocol 2, or "protocol 4"."""

    def __init__(self, file, dialect):
        super().__init__(file, 4 if dialect == "protocol 4" else 2)
        self.python_2 = dialect == "python 2"

    def persistent_id(self, value):
        return value.identity if isinstance(value, Persistent) else None

    def save_name(self, name):
        if self.proto >= 4:
            for part in name.text.split(" "):
                self.save(part)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + name.text.replace(" ", "\n").encode() + b"\n")

    def save_call(self, call):
        self.save(call.function)
        self.save(call.arguments)
        self.write(pickle.REDUCE)

    def save_text(self, text):
        if self.python_2:
            self.write(pickle.SHORT_BINSTRING + bytes([len(text)]) + text.encode("ascii"))
        else:
            self.save_str(text)

    def save_ordered_dict(self, items):
        attributes = {"_metadata": {"version": 1}}
        if self.python_2:
            self.save_reduce(OrderedDict, ([list(item) for item in items.items()],), attributes)
        else:
            self.save_reduce(OrderedDict, (), attributes, None, iter(items.items()))

    dispatch = pickle._Pickler.dispatch | {
        Code: lambda self, code: self.write(code),
        Name: save_name,
        Call: save_call,
        str: save_text,
        OrderedDict: save_ordered_dict,
    }


def pickled(value, dialect="python 3"):
    out = io.BytesIO()
    Pickler(out, dialect).dump(value)
    return out.getvalue()


@dataclass
class File:
    """Storages by key, and the file of content that uses them; layout: "zip" (torch 1.6) or "legacy"."""

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
        if self.layout == "zip":
            return zipped(self.members(content, dialect, prefix, byte_order))
        pickles = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, content, list(self.blocks))
        blocks = (struct.pack("<q", numbers.size) + numbers.tobytes() for numbers in self.blocks.values())
        return b"".join([*(pickled(value, dialect) for value in pickles), *blocks])

    def members(self, content, dialect="python 3", prefix="archive", byte_order="little"):
        """Name -> bytes of every member of the zip file."""
        members = {"data.pkl": pickled(content, dialect), "byteorder": byte_order.encode(), "version": b"3\n"}
        for key, numbers in self.blocks.items():
            ordered = numbers.astype(numbers.dtype.newbyteorder("<" if byte_order == "little" else ">"))
            members[f"data/{key}"] = ordered.tobytes()
        return {f"{prefix}/{name}": data for name, data in members.items()}


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
