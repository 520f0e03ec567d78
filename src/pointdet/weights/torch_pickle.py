# SPDX-License-Identifier: Apache-2.0
"""A restricted unpickler for PyTorch weight files. It builds tensors and plain values, and runs no code."""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pointdet.errors import PointDetError

# This also bounds the number of operations. Hourglass-104 with the state of Adam needs 0.3 MB.
MAX_BYTES = 1 << 21
MAX_DIMENSIONS = 32  # NumPy's limit
MAX_KEY = 1 << 63  # the hashes of longer integers can be made to collide

# PyTorch's name of a storage type -> NumPy's type code. BFloat16 is the upper half of a float32.
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
    """A block of `numel` numbers in the file. In old files a view of it may begin at the number `start`."""

    key: str
    kind: str  # a key of KINDS
    numel: int
    start: int


class Tensor(NamedTuple):
    """The position of a tensor in its storage, counted in numbers. Bounds are not checked yet."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    strides: tuple[int, ...]


class Dict(dict[Any, Any]):
    """A dict whose keys are text or small integers. Hashing deeply nested tuples could take hours."""

    def __setitem__(self, key: Any, value: Any) -> None:
        if not (isinstance(key, str) or isinstance(key, int) and abs(key) < MAX_KEY):
            raise TypeError
        super().__setitem__(key, value)


def broken(path: Path, why: str) -> PointDetError:
    """The error for a damaged file."""
    return PointDetError(f"{path} is not a whole weight file ({why}); copy or download it again")


def _empty_dict(pickles: Any) -> None:
    pickles.stack.append(Dict())


def _build(pickles: Any) -> None:
    """Drop the attributes of an OrderedDict. PyTorch stores the versions of its modules there."""
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
    """Reads the pickles at the start of `data` one after another: dicts, lists, tuples, plain values, tensors.

    The base class is the unpickler that is written in Python, because its table of operations can be reduced to
    those whose time and memory are bounded by their bytes. The C implementation has no such table: it sets
    attributes (BUILD), allocates an array as long as the largest memo index (32 GB for 5 bytes), and hashes nested
    tuples until its stack overflows. REDUCE can call only the three functions that `find_class` returns. Each takes
    a fixed number of arguments, because a long argument list would be copied for every call.
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
        self.storages: dict[str, Storage] = {}  # by key
        self.pairs = 0
        super().__init__(self.stream, encoding="latin1")

    def next(self) -> Any:
        """Read one pickle. Errors: PointDetError if it is broken, too long, or needs any other class."""
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
                raise broken(
                    self.path, "its pickle is truncated or contains more than tensors and values"
                ) from None
        raise PointDetError(
            f"{self.path} contains more than {MAX_BYTES >> 20} MiB besides its tensors; "
            "with torch, save only its state_dict into a new file"
        )

    def find_class(self, module: str, name: str) -> Any:
        """The replacement of a function or class. Nothing is imported."""
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
                    f"{self.path} needs {ascii(other[:80])[1:-1]}, which is neither a tensor nor a plain value "
                    "and was not executed; if you trust the file, save only its state_dict with torch"
                )

    def persistent_load(self, pid: Any) -> Storage:
        """A storage from ("storage", kind, key, device, numel). Old files add None or (key, start, numel)."""
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
        """Python 2 passed a list of pairs. They are counted, because a pickle can pass the same list many times."""
        self.pairs += len(pairs)
        if self.pairs > MAX_BYTES:
            raise ValueError
        items = Dict()
        for key, value in pairs:
            items[key] = value
        return items
