# SPDX-License-Identifier: Apache-2.0
"""A pickle may ask for whatever it likes: what is no tensor is refused by its name, nothing runs, nothing hangs."""

import pickle
import re
import struct
import time

import numpy as np
import pytest
from torch_writer import Call, Code, File, Name, opcodes, tensor

from pointdet.errors import PointDetError
from pointdet.weights import torch_file

REFUSED = "asks for {}, which is neither a tensor nor a plain value and was not run"
BROKEN = "is not a whole weight file (its pickle breaks off or is garbled)"


@pytest.fixture(params=["zip", "legacy"])
def read(request, tmp_path, monkeypatch):
    """read(content, dialect): the contents of a file with a good tensor x and `content` as "bad"."""
    monkeypatch.chdir(tmp_path)

    def read(content, dialect="python 3"):
        file = File(request.param)
        good = file.tensor(np.arange(3.0))
        (tmp_path / "weights.pth").write_bytes(file.written({"x": good, "bad": content}, dialect))
        try:
            return torch_file.read_contents(tmp_path / "weights.pth")
        finally:
            assert not (tmp_path / "canary").exists()

    return read


def refused(what):
    return pytest.raises(PointDetError, match=re.escape(REFUSED.format(what)))


NAMES = """
posix system|os system|subprocess Popen|builtins eval|builtins exec|builtins getattr|builtins __import__|__builtin__ eval
torch load|torch.storage _load_from_bytes|torch.jit load|torch._utils _rebuild_sparse_tensor|torch._utils _rebuild_qtensor
torch.nn.modules.conv Conv2d|torch Size|torch device|torch float32|torch.cuda FloatStorage|torch ComplexFloatStorage
numpy.core.multiarray scalar|numpy.core.multiarray _reconstruct|numpy dtype|_codecs encode|copyreg _reconstructor
argparse Namespace|pathlib PosixPath|collections defaultdict|collections Counter|functools partial|operator attrgetter
pointdet.weights.torch_pickle Tensor|pointdet.weights.torch_file read|collections OrderedDict.update|torch._utils os
""".strip().replace("\n", "|").split("|")  # fmt: skip


@pytest.mark.parametrize("dialect", ["python 3", "protocol 4"])
@pytest.mark.parametrize("name", NAMES)
def test_foreign_names(read, name, dialect):
    with refused(name.replace(" ", ".")):
        read(Call(Name(name), ("touch canary",)), dialect)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_what_pickle_itself_writes(read, protocol):
    class Evil:
        def __reduce__(self):
            return eval, ("open('canary', 'w')",)

    with refused("builtins.eval" if protocol > 2 else "__builtin__.eval"):
        read(Code(pickle.dumps(Evil(), protocol)[2:-1]))


@pytest.mark.parametrize(
    "name", [" ", "os\x00 system", "os system\x1b[2J", "o\\x73 system", "os " + "x" * 10_000]
)
def test_odd_names(read, name):
    with pytest.raises(PointDetError) as raised:
        read(Call(Name(name), ("touch canary",)))
    message = str(raised.value)
    assert "asks for" in message and message.isprintable() and len(message) < 500


def text(value):
    return opcodes(value, "python 3")


ORDERED_DICT = b"ccollections\nOrderedDict\n"
OPERATIONS = {  # opcodes -> how it is refused
    b"(" + text("touch canary") + b"ios\nsystem\n": "the pickle operation INST os system",
    b"(" + ORDERED_DICT + b"o": "the pickle operation OBJ",
    ORDERED_DICT + b")\x81": "the pickle operation NEWOBJ",
    ORDERED_DICT + b")}\x92": "the pickle operation NEWOBJ_EX",
    ORDERED_DICT + b"}b": "the pickle operation BUILD",
    ORDERED_DICT + text(({}, {"update": 1})) + b"b": "the pickle operation BUILD",
    b"ctorch\nFloatStorage\n}b": "the pickle operation BUILD",
    b"]}b": "the pickle operation BUILD",
    b"\x82\x01": "the pickle operation EXT1",
    b"\x83\x01\x00": "the pickle operation EXT2",
    b"\x84\x01\x00\x00\x00": "the pickle operation EXT4",
    b"Pos.system\n": "the pickle operation PERSID os.system",
    b"\x8b\x00\x00\x10\x00" + bytes(1 << 20): "the pickle operation LONG4",
    b"L" + b"9" * 4000 + b"L\n": "the pickle operation LONG",
    b"N0": "the pickle operation POP",
    b"N2": "the pickle operation DUP",
    b"(1": "the pickle operation POP_MARK",
    b"\x8f": "the pickle operation EMPTY_SET",
    b"(\x91": "the pickle operation FROZENSET",
    b"\x97": "the pickle operation NEXT_BUFFER",
    b"\x96" + struct.pack("<Q", 3) + b"abc": "the pickle operation BYTEARRAY8",
    text("os.system") + b")R": "an unusual call of something without a name",
    ORDERED_DICT + text((3,)) + b"R": "an unusual call of collections.OrderedDict",
    b"ctorch\nFloatStorage\n" + text((10**9,)) + b"R": "an unusual call of torch.FloatStorage",
    b"ctorch._utils\n_rebuild_tensor_v2\n)R": "an unusual call of torch._utils._rebuild_tensor_v2",
    b"ctorch._utils\n_rebuild_parameter\n" + text((3, True)) + b"R": "an unusual call of torch._utils._rebuild_parameter",
}  # fmt: skip


@pytest.mark.parametrize("code", OPERATIONS, ids=OPERATIONS.values())
def test_foreign_operations(read, code):
    with refused(OPERATIONS[code]):
        read(Code(code))


FLOAT = b"ctorch\nFloatStorage\n"
GARBLED = {
    "text of 4 GB": b"X\xff\xff\xff\xff",
    "text of 2**63": b"\x8d" + b"\xff" * 8,
    "number of 5000 digits": b"I" + b"9" * 5000 + b"\n",
    "unknown opcode": b"\xff",
    "nothing remembered": b"h\x63",
    "too much taken": b"\x87" * 60,
    "no mark": b"t",
    "odd pairs": b"}(Nu",
    "append to a dict": b"}Na",
    "set in a list": b"]NNs",
    "key is a list": b"}]Ns",
    "key is a number of many bits": b"}\x8a\x09" + b"\x01" * 9 + b"Ns",
    "text without end": b"cos",
    "name of numbers": b"K\x01K\x02\x93",
    "storage is a number": b"K\x01Q",
    "storage is a module": text(("module", "x", "y", "z", 1)) + b"Q",
    "storage of no kind": text(("storage", "FloatStorage", "0", "cpu", 1)) + b"Q",
    "storage of a function": b"(" + text("storage") + ORDERED_DICT + text("0") + text("cpu") + b"K\x01tQ",
    "storage of -1": b"(" + text("storage") + FLOAT + text("0") + text("cpu") + text(-1) + b"tQ",
    "storage with two views": b"(" + text("storage") + FLOAT + text("0") + text("cpu") + b"K\x01NNtQ",
    "storage twice": b"(" + text("storage") + FLOAT + text("94000") + text("cpu") + b"K\x01tQ",
    "end too early": b".",
}


@pytest.mark.parametrize("case", GARBLED)
def test_garbled(read, case):
    with pytest.raises(PointDetError, match=re.escape(BROKEN)):
        read(Code(GARBLED[case]))


def repeated(first, step, count):
    """first, and then count times a step that takes up what memo 9 holds; all in a tuple."""
    return Code(b"(" + first + b"q\x09" + (step + b"q\x09") * count + b"t")


HARMLESS = {  # exponential for whoever walks through them
    "laughing lists": repeated(b"]", b"](" + b"h\x09" * 10 + b"e", 50),
    "laughing tuples": repeated(b")", b"(" + b"h\x09" * 10 + b"t", 50),
    "deep lists": Code(b"]" * 150_000 + b"a" * 149_999),
    "deep tuples": Code(b")" + b"\x85" * 150_000),
    "far memo": Code(b"Nr\xff\xff\xff\xff"),
    "a list in itself": Code(b"]q\x09h\x09a"),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_bombs_that_do_not_go_off(read, case):
    began = time.perf_counter()
    assert list(read(HARMLESS[case]).tensors) == ["x"]
    assert time.perf_counter() - began < 30


PAIRS = b"](" + b"](K\x01Ne" * 50_000 + b"eq\x09"
BOMBS = {
    "laughing keys": (Code(b"}" + repeated(b")", b"(" + b"h\x09" * 10 + b"t", 50) + b"Ns"), BROKEN),
    "deep key": (Code(b"})" + b"\x85" * 150_000 + b"Ns"), BROKEN),
    "colliding keys": (Code(b"}(" + b"".join(text(i * (2**61 - 1)) + b"N" for i in range(9)) + b"u"), BROKEN),
    "many steps": (Code(b"](" + b"}" * 1_100_000 + b"e"), "needs more than 1048576 steps"),
    "large dicts": (Code(PAIRS + (ORDERED_DICT + b"h\x09\x85R") * 50), "needs more than 1048576 steps"),
}


@pytest.mark.parametrize("case", BOMBS)
def test_bombs_that_are_refused(read, case):
    content, why = BOMBS[case]
    began = time.perf_counter()
    with pytest.raises(PointDetError, match=re.escape(why)):
        read(content)
    assert time.perf_counter() - began < 30


def test_a_tensor_where_no_storage_is(read):
    with refused("an unusual call of torch._utils._rebuild_tensor_v2"):
        read(tensor(3, (1,), (1,)))
