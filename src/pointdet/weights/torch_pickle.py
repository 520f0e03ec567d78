# SPDX-License-Identifier: Apache-2.0
"""The pickles in PyTorch's weight files, by an unpickler that knows tensors and values and runs nothing."""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pointdet.errors import PointDetError

# It bounds the operations too, as each takes a byte or more. Hourglass-104 with Adam's state needs 0.3 MB.
MAX_BYTES = 1 << 21
MAX_DIMENSIONS = 32  # numpy's
MAX_KEY = 1 << 63  # longer numbers can be made to collide in a dict

# PyTorch's name of a kind of storage -> numpy's code of one number; BFloat16 is the upper half of a float32.
KINDS = {
    "torch.DoubleStorage": "f8", "torch.FloatStorage": "f4", "torch.HalfStorage": "f2",
    "torch.BFloat16Storage": "u2", "torch.LongStorage": "i8", "torch.IntStorage": "i4",
    "torch.ShortStorage": "i2", "torch.CharStorage": "i1", "torch.ByteStorage": "u1",
    "torch.BoolStorage": "u1",
}  # fmt: skip
OPERATIONS = {getattr(pickle, name)[0] for name in (
    "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1",
    "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING", "BINBYTES",
    "SHORT_BINBYTES", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET", "EMPTY_TUPLE", "TUPLE",
    "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "GLOBAL",
    "STACK_GLOBAL", "BINPERSID", "REDUCE",
)}  # fmt: skip


class Storage(NamedTuple):
    """A block of `numel` numbers in the file. Old files have views of it that begin at the number `start`."""

    key: str
    kind: str  # a key of KINDS
    numel: int
    start: int


class Tensor(NamedTuple):
    """Where a tensor lies in its storage, in numbers; that they are integers is all that is known of them."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    strides: tuple[int, ...]


class Dict(dict[Any, Any]):
    """A dict of text and small integers: the hash of a tuple of tuples of tuples ... may take for ever."""

    def __setitem__(self, key: Any, value: Any) -> None:
        if not (isinstance(key, str) or isinstance(key, int) and abs(key) < MAX_KEY):
            raise TypeError
        super().__setitem__(key, value)


def broken(path: Path, why: str) -> PointDetError:
    """The error for a file that is damaged."""
    return PointDetError(f"{path} is not a whole weight file ({why}); copy or download it again")


def _empty_dict(pickles: Any) -> None:
    pickles.stack.append(Dict())


def _build(pickles: Any) -> None:
    """Leave out the attributes of an OrderedDict: PyTorch keeps the versions of its modules there."""
    pickles.stack.pop()
    if not isinstance(pickles.stack[-1], Dict):
        raise TypeError


def _tensor(
    storage: Any, offset: Any, size: Any, strides: Any, grad: Any = 0, hooks: Any = 0, more: Any = 0
) -> Tensor:
    match storage, offset, size, strides:
        case Storage(), int(), tuple(), tuple() if len(size) == len(strides) <= MAX_DIMENSIONS:
            if all(isinstance(number, int) for number in size + strides):
                return Tensor(storage, offset, size, strides)
    raise TypeError


def _parameter(tensor: Any, grad: Any, hooks: Any) -> Any:
    return tensor


class Pickles(pickle._Unpickler):
    """The pickles at the start of `data`, one after another: Dicts, lists, tuples, plain values, Tensors.

    The base is Python's unpickler written in Python, as its table of operations can be cut down to those that
    take no more time and memory than their bytes. The one written in C has them all: it sets attributes
    (BUILD), makes an array as long as the largest memo index (32 GB for 5 bytes) and hashes tuples of tuples
    until its stack overflows. All that REDUCE can call are the three functions that `find_class` knows; each
    takes a fixed number of arguments, as a long list of them would be copied again and again.
    """

    dispatch: ClassVar = {
        **{code: load for code, load in pickle._Unpickler.dispatch.items() if code in OPERATIONS},
        pickle.EMPTY_DICT[0]: _empty_dict,
        pickle.BUILD[0]: _build,
    }
    memo: dict[int, Any]

    def __init__(self, path: Path, data: memoryview) -> None:
        self.path = path
        self.stream = io.BytesIO(data[:MAX_BYTES])
        self.storages: dict[str, Storage] = {}  # all that were named, by key
        self.pairs = 0
        super().__init__(self.stream, encoding="latin1")

    def next(self) -> Any:
        """Read one. Errors: PointDetError for a broken or long one, and one that asks for anything else."""
        self.memo.clear()
        try:
            return self.load()
        except (
            pickle.UnpicklingError,
            EOFError,
            LookupError,
            ValueError,
            TypeError,
            AttributeError,
            struct.error,
        ):
            if self.stream.tell() < MAX_BYTES:
                raise broken(self.path, "its pickle breaks off or has more than tensors and values") from None
        raise PointDetError(
            f"{self.path} has a pickle of more than {MAX_BYTES >> 20} MiB beside its tensors; "
            "with torch, save only its state_dict into a new file"
        )

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a function or class; nothing is imported."""
        match f"{module}.{name}":
            case "collections.OrderedDict":
                return self._ordered_dict
            case "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2":
                return _tensor
            case "torch._utils._rebuild_parameter":
                return _parameter
            case kind if kind in KINDS:
                return kind
            case other:
                raise PointDetError(
                    f"{self.path} asks for {ascii(other[:80])[1:-1]}, which is neither a tensor nor a plain "
                    "value and was not run; if you trust the file, save only its state_dict with torch"
                )

    def persistent_load(self, pid: Any) -> Storage:
        """A storage from ("storage", kind, key, device, numel); old files add None or (key, start, numel)."""
        match pid:
            case ("storage", str(kind), str(key), str(), int(numel), *view) if kind in KINDS:
                whole = self.storages[key] = Storage(key, kind, numel, 0)
                match view:
                    case [] | [None]:
                        return whole
                    case [(str(), int(start), int())]:
                        return whole._replace(start=start)
        raise TypeError

    def _ordered_dict(self, pairs: Any = ()) -> Dict:
        """Python 2 wrote pairs beside it; they are counted, as a pickle can use a list of them many times."""
        self.pairs += len(pairs)
        if self.pairs > MAX_BYTES:
            raise ValueError
        items = Dict()
        for key, value in pairs:
            items[key] = value
        return items
