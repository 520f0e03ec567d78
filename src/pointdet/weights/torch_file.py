# SPDX-License-Identifier: Apache-2.0
"""torch's weight files (.pth, .pkl, .t7, ...), read without torch; nothing in them is ever run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pointdet.errors import PointDetError
from pointdet.weights.torch_container import Container, MappedFile, unpack
from pointdet.weights.torch_pickle import KINDS, Storage, Tensor, broken

if TYPE_CHECKING:
    from pointdet.weights.h5_file import Arrays

WRAPPERS = ("state_dict", "model", "net")
MAX_WRAPPERS = 4  # one in another; a dict that holds itself would go on for ever


@dataclass(frozen=True)
class Contents:
    """What a weight file holds: the tensors of its state dict, and the plain values beside them, such as `epoch`."""

    tensors: dict[str, npt.NDArray[Any]]
    scalars: dict[str, str | int | float]


def read(path: Path) -> Arrays:
    """The tensors by name as float32, as `h5_file.read` gives them. Errors: as `read_contents`."""
    with np.errstate(over="ignore", invalid="ignore"):
        return {name: np.asarray(array, np.float32) for name, array in read_contents(path).tensors.items()}


def read_contents(path: Path) -> Contents:
    """The tensors by name, in the order of the file, and the scalars beside them.

    The state dict may lie in `state_dict`, `model` or `net`; a leading `module.` is taken from the names. The arrays
    are read-only and of the file's type, bfloat16 as float32. They are views into the file, which must stay as it is
    as long as they live; only bfloat16 and bool are copies. They may be unaligned.
    Errors: PointDetError for anything but a whole file, and for one whose pickle asks for more than tensors and plain
    values: nothing of it is run.
    """
    file = MappedFile.open(path)
    container = unpack(file)
    state, scalars = _unwrapped(container.content)
    tensors = _named(path, state)
    # A tensor can repeat few numbers endlessly; whoever copies what we give must not need more than the file did.
    elements = sum(math.prod(max(side, 1) for side in tensor.size) for tensor in tensors.values())
    if elements > len(file.mapping):
        raise broken(path, "its tensors are larger than the file")
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    blocks = {key: _block(file, container, storage) for key, storage in storages.items()}
    arrays = {name: _view(path, name, tensor, blocks) for name, tensor in tensors.items()}
    return Contents(arrays, scalars)


def _unwrapped(content: Any) -> tuple[dict[Any, Any], dict[str, str | int | float]]:
    """The dict of tensors, found in its wrappers, and the scalars that stand in all of these dicts."""
    scalars: dict[str, str | int | float] = {}
    for _ in range(MAX_WRAPPERS):
        if not isinstance(content, dict):
            break
        for key, value in content.items():
            if isinstance(key, str) and isinstance(value, str | int | float):
                scalars.setdefault(key, value)
        inner = [content[name] for name in WRAPPERS if isinstance(content.get(name), dict)]
        if not inner:
            return content, scalars
        content = inner[0]
    return {}, scalars


def _named(path: Path, state: dict[Any, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict by name. Errors: PointDetError when there is none or a name is none."""
    tensors: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if not isinstance(tensor, Tensor):
            continue
        name = key.removeprefix("module.") if isinstance(key, str) else ""
        if not name or not name.isprintable() or name in tensors:
            raise broken(path, f"the name of its tensor {len(tensors) + 1} is no text or stands twice")
        tensors[name] = tensor
    if not tensors:
        raise PointDetError(
            f"{path} holds no tensors by name, neither directly nor in {', '.join(WRAPPERS)}; "
            "give a file with a state_dict"
        )
    return tensors


def _block(file: MappedFile, container: Container, storage: Storage) -> npt.NDArray[Any]:
    """All numbers of a storage (count,), read-only."""
    kind = np.dtype(container.byte_order + KINDS[storage.kind])
    place = container.places.get(storage.key)
    if place is None or place.size != storage.count * kind.itemsize:
        raise broken(file.path, f"its storage {storage.key[:80]!a} is missing or of another size")
    file.check(place)
    block: npt.NDArray[Any] = np.frombuffer(file.mapping, kind, storage.count, place.start)
    if storage.kind == "torch.BFloat16Storage":
        wide = block.astype(np.uint32)
        wide <<= 16
        block = wide.view(np.float32)
    elif storage.kind == "torch.BoolStorage":
        block = block != 0  # NumPy's bool knows no bytes but 0 and 1
    block.flags.writeable = False
    return block


def _view(path: Path, name: str, tensor: Tensor, blocks: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """The tensor's part of its storage."""
    block = blocks[tensor.storage.key]
    if 0 in tensor.size:
        return np.empty(tensor.size, block.dtype)
    strides = [stride if side > 1 else 0 for side, stride in zip(tensor.size, tensor.strides, strict=True)]
    first = tensor.storage.start + tensor.offset
    last = first + sum((side - 1) * stride for side, stride in zip(tensor.size, strides, strict=True))
    if last >= len(block):
        raise broken(path, f"{name} reaches beyond its storage")
    item = block.itemsize
    return np.ndarray(tensor.size, block.dtype, block, first * item, [stride * item for stride in strides])
