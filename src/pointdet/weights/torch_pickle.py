# SPDX-License-Identifier: Apache-2.0
"""The pickles in torch's weight files, read by a machine that knows plain values and tensors and can call nothing."""

from __future__ import annotations

import io
import pickletools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pointdet.errors import PointDetError

T = TypeVar("T")

# Generous for weights (Hourglass-104 with Adam's state: 0.3 MB, 100,000 steps) and little for a bomb.
MAX_BYTES = 1 << 24
MAX_STEPS = 1 << 20
MAX_DIMENSIONS = 32  # numpy's
MAX_KEY = 1 << 63  # longer numbers can be made to collide in a dict

# torch's name of a kind of storage -> numpy's code of one number in the file.
KINDS = {
    "torch.DoubleStorage": "f8",
    "torch.FloatStorage": "f4",
    "torch.HalfStorage": "f2",
    "torch.BFloat16Storage": "u2",  # the upper half of a float32
    "torch.LongStorage": "i8",
    "torch.IntStorage": "i4",
    "torch.ShortStorage": "i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "u1",
}
CALLS = (
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
)
CONSTANTS = {
    "NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (),
}  # fmt: skip
LITERALS = {
    "BININT", "BININT1", "BININT2", "INT", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Storage:
    """A block of numbers in the file, in which tensors lie."""

    key: str
    kind: str  # a key of KINDS
    count: int  # numbers in the block
    start: int = 0  # where a view of the block begins, which old files know


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies in its storage; offset and strides count numbers. Nothing is known of the bounds."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Name:
    """A function or class that the pickle names: only the name, nothing is imported."""

    text: str


def broken(path: Path, why: str) -> PointDetError:
    """The error for a file that is damaged."""
    return PointDetError(f"{path} is not a whole weight file ({why}); copy or download it again")


class Pickles:
    """The pickles at the start of `data`, read one after another; all of them share the limits.

    Python's own unpickler is no base for this: it calls what the file asks for, and even when it may call next to
    nothing, one dict whose key is a tuple of tuples of tuples ... keeps it busy for ever.
    """

    def __init__(self, path: Path, data: bytes) -> None:
        self.storages: dict[str, Storage] = {}  # all that were named, by key
        self._path = path
        self._stream = io.BytesIO(data)
        self._steps = 0

    @property
    def end(self) -> int:
        """Bytes read so far."""
        return self._stream.tell()

    def next(self) -> Any:
        """The content of the next pickle: dicts, lists, tuples, plain values and Tensors.

        Errors: PointDetError for a broken pickle, and for one that asks for anything else, with its name.
        """
        try:
            return self._run()
        except (ValueError, TypeError, LookupError):
            raise broken(self._path, "its pickle breaks off or is garbled") from None

    def _run(self) -> Any:
        stack: list[Any] = []
        marks: list[int] = []
        memo: dict[Any, Any] = {}

        def since_mark() -> list[Any]:
            mark = marks.pop()
            items = stack[mark:]
            del stack[mark:]
            return items

        for opcode, argument, _ in pickletools.genops(self._stream):
            self._count(1)
            match opcode.name:
                case "PROTO" | "FRAME":
                    pass
                case literal if literal in LITERALS:
                    stack.append(argument)
                case constant if constant in CONSTANTS:
                    stack.append(CONSTANTS[constant])
                case "BINPUT" | "LONG_BINPUT":
                    memo[argument] = stack[-1]
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "MARK":
                    marks.append(len(stack))
                case "EMPTY_LIST":
                    stack.append([])
                case "EMPTY_DICT":
                    stack.append({})
                case "TUPLE":
                    stack.append(tuple(since_mark()))
                case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                    items = [stack.pop() for _ in range(int(name[-1]))]
                    stack.append(tuple(reversed(items)))
                case "APPEND":
                    item = stack.pop()
                    _as(list, stack[-1]).append(item)
                case "APPENDS":
                    items = since_mark()
                    _as(list, stack[-1]).extend(items)
                case "SETITEM":
                    value, key = stack.pop(), stack.pop()
                    _fill(stack[-1], [(key, value)])
                case "SETITEMS":
                    items = since_mark()
                    _fill(stack[-1], zip(items[::2], items[1::2], strict=True))
                case "GLOBAL":
                    stack.append(self._name(str(argument).replace(" ", ".", 1)))
                case "STACK_GLOBAL":
                    name, module = stack.pop(), stack.pop()
                    stack.append(self._name(f"{_as(str, module)}.{_as(str, name)}"))
                case "BINPERSID":
                    stack.append(self._storage(stack.pop()))
                case "REDUCE":
                    arguments, function = stack.pop(), stack.pop()
                    stack.append(self._call(function, arguments))
                case "BUILD" if len(stack) > 1 and isinstance(stack[-2], dict):
                    stack.pop()  # an OrderedDict's attributes: torch keeps the versions of its modules there
                case "STOP" if len(stack) == 1 and not marks:
                    return stack[0]
                case "STOP":
                    break
                case name:
                    text = f"{name} {argument}" if isinstance(argument, str) else name
                    raise self._refused(f"the pickle operation {_shown(text)}")
        raise ValueError

    def _count(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise PointDetError(
                f"{self._path} needs more than {MAX_STEPS} steps to be read, as no weight file does; "
                "with torch, save only its state_dict into a new file"
            )

    def _refused(self, what: str) -> PointDetError:
        return PointDetError(
            f"{self._path} asks for {what}, which is neither a tensor nor a plain value and was not run; "
            "if you trust the file, save only its state_dict into a new one with torch"
        )

    def _name(self, text: str) -> _Name:
        if text not in CALLS and text not in KINDS:
            raise self._refused(_shown(text))
        return _Name(text)

    def _storage(self, identity: Any) -> Storage:
        match identity:
            case ("storage", _Name(kind), str(key), str(), int(count), *view) if kind in KINDS and count >= 0:
                storage = Storage(key, kind, count)
            case _:
                raise ValueError
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError
        match view:
            case [] | [None]:
                return storage
            case [(str(), int(start), int())] if start >= 0:
                return Storage(key, kind, count, start)
        raise ValueError

    def _call(self, function: Any, arguments: Any) -> Any:
        """What the call would give, without a call."""
        match function, arguments:
            case _Name("collections.OrderedDict"), ():
                return {}
            case _Name("collections.OrderedDict"), (list(pairs),):  # as Python 2 wrote it
                self._count(len(pairs))
                return _fill({}, pairs)
            case (
                _Name("torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2"),
                (Storage() as storage, int(offset), tuple(size), tuple(strides), *_),
            ):
                numbers = (offset, *size, *strides)
                if len(size) != len(strides) or len(size) > MAX_DIMENSIONS:
                    raise ValueError
                if not all(isinstance(number, int) and number >= 0 for number in numbers):
                    raise ValueError
                return Tensor(storage, offset, size, strides)
            case _Name("torch._utils._rebuild_parameter"), (Tensor() as tensor, *_):
                return tensor
        name = function.text if isinstance(function, _Name) else "something without a name"
        raise self._refused(f"an unusual call of {name}")


def _as(kind: type[T], item: Any) -> T:
    if not isinstance(item, kind):
        raise TypeError
    return item


def _fill(target: Any, pairs: Iterable[tuple[Any, Any]]) -> Any:
    items = _as(dict, target)
    for key, value in pairs:
        if not (isinstance(key, str) or isinstance(key, int) and abs(key) < MAX_KEY):
            raise TypeError
        items[key] = value
    return items


def _shown(text: str) -> str:
    """Text of unknown origin, fit for a message."""
    return ascii(text[:80])[1:-1]
