# SPDX-License-Identifier: Apache-2.0
"""Reader of PyTorch weight files (.pth, .pkl, .t7, ...). It needs no PyTorch and runs no code of the file."""

from __future__ import annotations

import math
import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pointdet.errors import PointDetError
from pointdet.weights import kind as kinds
from pointdet.weights import zip_file
from pointdet.weights.torch_pickle import KINDS, Dict, Pickles, Tensor, broken

if TYPE_CHECKING:
    from pointdet.arrays import Arrays

WRAPPERS = ("state_dict", "model", "net")
MAX_WRAPPERS = 4  # nested ones; a dict may contain itself
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # the first two pickles of the legacy layout

Layout = tuple[
    Any, Callable[[str], memoryview], str
]  # unpickled content, key -> bytes of a storage, byte order


def read(path: Path) -> Arrays:
    """The tensors by name as float32, in the order of the file.

    The state dict may be the value of `state_dict`, `model` or `net`. The prefix `module.` is removed from the
    names. float32 tensors are read-only views into the memory-mapped file, which must not change while they are in
    use; they may be unaligned. Other tensors are copies. Errors: PointDetError if the file is not a whole weight
    file, or if its pickle needs more than tensors and plain values.
    """
    try:
        with path.open("rb") as file:
            whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise PointDetError(f"{path} cannot be read ({error.args[-1]}); give a whole weight file") from None
    start = bytes(whole[:512])
    if start.startswith(b"PK\3\4"):
        content, part, byte_order = _unzip(path, whole)
    elif start.startswith(b"\x80") and start[8:9] != b"{":
        content, part, byte_order = _legacy(path, whole)
    else:
        raise PointDetError(f"{path} {_other(start)}")
    tensors = _named(path, content)
    # Strides of 0 can make a huge tensor of a few numbers; a copy of it could fill the memory.
    if sum(math.prod(max(side, 1) for side in tensor.size) for tensor in tensors.values()) > len(whole):
        raise broken(path, "its tensors are larger than the file")
    parts = {key: part(key) for key in {tensor.storage.key for tensor in tensors.values()}}
    return {name: _array(path, name, tensor, parts, byte_order) for name, tensor in tensors.items()}


def _other(start: bytes) -> str:
    """What a file of neither layout is, and the fix."""
    if start[257:262] == b"ustar":
        return (
            "is a tar file of the first versions of torch; with torch, torch.save(torch.load(FILE), NEW_FILE)"
        )
    if start[6:9] == b"\0\0{":
        return "is a safetensors file; with torch, torch.save(safetensors.torch.load_file(FILE), NEW_FILE)"
    if start.lstrip().startswith(b"<"):
        return "is a web page, not a weight file: the download failed; open its address in a browser"
    return "is not a weight file of torch; give a file that torch.save wrote"


def _unzip(path: Path, whole: memoryview) -> Layout:
    """PyTorch 1.6 and later: NAME/data.pkl, and each storage as NAME/data/KEY, all uncompressed."""
    try:
        with zip_file.opened(path) as archive:
            members = {member.filename: member for member in archive.infolist()}
    except zip_file.ERRORS:
        raise broken(path, "its zip directory is missing or damaged") from None
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise PointDetError(f"{path} is a zip file that torch.save did not write; give a weight file")
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in members:
        save = "torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)"
        raise PointDetError(f"{path} is a TorchScript program; with torch, {save}")
    if sum(member.file_size for member in members.values()) > len(whole):
        raise broken(path, "its zip members overlap or are outside of the file")

    def part(name: str) -> memoryview:
        """The bytes of a member, which follow a header of 30 bytes, its name and its padding."""
        member = members.get(prefix + name)
        if member is None:
            return memoryview(b"")
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise PointDetError(f"{path} was compressed or encrypted after torch.save; give it as it was")
        start = max(member.header_offset, 0)
        header = bytes(whole[start : start + 30])
        if len(header) < 30 or not header.startswith(b"PK\3\4"):
            raise broken(path, "its zip members overlap or are outside of the file")
        start += 30 + sum(struct.unpack("<HH", header[26:]))
        found = whole[start : start + member.file_size]
        if len(found) < member.file_size or member.CRC and zlib.crc32(found) != member.CRC:  # 0: not written
            raise broken(path, "its bytes do not match their checksum")
        return found

    content = Pickles(path, part("data.pkl")).next()
    byte_order = {b"": "<", b"little": "<", b"big": ">"}.get(bytes(part("byteorder")))
    if byte_order is None:
        raise broken(path, "its byte order is neither little nor big")
    return content, lambda key: part(f"data/{key}"), byte_order


def _legacy(path: Path, whole: memoryview) -> Layout:
    """Before PyTorch 1.6: five pickles, then for each key of the fifth pickle a count of 8 bytes and the numbers.

    The pickles are a magic number, the protocol, the system, the content and the keys of the storages.
    """
    pickles = Pickles(path, whole)
    if pickles.next() != MAGIC or pickles.next() != PROTOCOL:
        raise PointDetError(f"{path} is a pickle that torch.save did not write; give a weight file")
    _, content, keys = pickles.next(), pickles.next(), pickles.next()
    storages, at = {}, pickles.stream.tell()
    for key in keys if isinstance(keys, list) else ():
        if not isinstance(key, str) or key not in pickles.storages:
            raise broken(path, "its list of storages is damaged")
        numel = int.from_bytes(whole[at : at + 8], "little")
        start, at = at + 8, at + 8 + numel * np.dtype(KINDS[pickles.storages[key].kind]).itemsize
        storages[key] = whole[start:at]
    if at > len(whole):
        raise broken(path, "its numbers are truncated")
    return content, lambda key: storages.get(key, memoryview(b"")), "<"


def _named(path: Path, content: Any) -> dict[str, Tensor]:
    """The tensors of the state dict by name. Errors: PointDetError for no tensors, or for invalid names."""
    for _ in range(MAX_WRAPPERS):
        inner = [content[name] for name in WRAPPERS if isinstance(content, Dict) and name in content]
        content = next((one for one in inner if isinstance(one, Dict)), content)
    items = content.items() if isinstance(content, Dict) else ()
    tensors = [(str(key).removeprefix("module."), item) for key, item in items if isinstance(item, Tensor)]
    if not tensors:
        raise PointDetError(f"{path} contains no named tensors; give a file with a state_dict, model or net")
    if len(dict(tensors)) < len(tensors) or not all(name and name.isprintable() for name, _ in tensors):
        raise broken(path, "the name of a tensor is empty, unprintable or not unique")
    return dict(tensors)


def _array(path: Path, name: str, tensor: Tensor, parts: dict[str, memoryview], byte_order: str) -> Any:
    """A tensor as float32."""
    (key, kind, numel, start), offset, size, strides = tensor
    code = np.dtype(byte_order + KINDS[kind])
    if len(parts[key]) != numel * code.itemsize:
        raise broken(path, f"its storage {key[:80]!a} is missing or of another size")
    strides = tuple(stride if side > 1 else 0 for side, stride in zip(size, strides, strict=True))
    reach = sum((side - 1) * stride for side, stride in zip(size, strides, strict=True))
    # NumPy's own check of the bounds can overflow.
    if min(0, start + offset, *size, *strides) < 0 or start + offset + reach >= numel and 0 not in size:
        raise broken(path, f"{name} reaches beyond its storage")
    if 0 in size:
        return np.zeros(size, np.float32)
    steps = [stride * code.itemsize for stride in strides]
    array: npt.NDArray[Any] = np.ndarray(size, code, parts[key], (start + offset) * code.itemsize, steps)
    if code.kind in "iub" and kind != "torch.BFloat16Storage" and len(size) == kinds.KERNEL:
        raise kinds.of_integers(path, name, kind.removeprefix("torch.").removesuffix("Storage"))
    if kind == "torch.BFloat16Storage":
        array = np.asarray(np.left_shift(array, 16, dtype=np.uint32)).view(np.float32)
    elif kind == "torch.BoolStorage":
        array = array != 0
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(array, np.float32)
