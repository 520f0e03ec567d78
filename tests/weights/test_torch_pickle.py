# SPDX-License-Identifier: Apache-2.0
"""A pickle may ask for whatever it likes: nothing runs, nothing hangs, and memory stays small."""

import os
import pickle
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torch_writer import Call, Code, File, Name, pickled, tensor

from pointdet.errors import PointDetError
from pointdet.weights import torch_file

SRC = Path(__file__).parents[2] / "src"
REFUSED = "needs {}, which is neither a tensor nor a plain value and was not executed"
BROKEN = "is not a whole weight file (its pickle is truncated or contains more than tensors and values)"
RUNNING = {"compile", "exec", "import", "os.system", "pickle.find_class", "subprocess.Popen"}
ran = []  # audit events while a file is read; an audit hook cannot be taken away again
sys.addaudithook(lambda event, _: ran.append(event) if reading and event in RUNNING else None)
reading = False


@pytest.fixture(params=["zip", "legacy"])
def read(request, tmp_path, monkeypatch):
    """read(content, dialect): the tensors of a file with a good tensor x and `content` as "bad"."""
    monkeypatch.chdir(tmp_path)
    torch_file.read(write(tmp_path / "weights.pth", request.param, None))  # now all is imported

    def read(content, dialect="python 3"):
        global reading
        path = write(tmp_path / "weights.pth", request.param, content, dialect)
        ran.clear()
        reading = True
        try:
            return torch_file.read(path)
        finally:
            reading = False
            assert not ran

    return read


def write(path, layout, content, dialect="python 3"):
    file = File(layout)
    path.unlink(missing_ok=True)
    path.write_bytes(file.written({"x": file.tensor(np.arange(3.0)), "bad": content}, dialect))
    return path


def text(value):
    return pickled(value)[2:-1]


NAMES = """
posix system|os system|subprocess Popen|builtins eval|builtins exec|builtins getattr|__builtin__ eval
torch load|torch.storage _load_from_bytes|torch._utils _rebuild_sparse_tensor|torch.nn.modules.conv Conv2d
torch Size|torch device|torch.cuda FloatStorage|torch ComplexFloatStorage|numpy.core.multiarray scalar
_codecs encode|copyreg _reconstructor|argparse Namespace|collections defaultdict|functools partial
pointdet.weights.torch_pickle Tensor|pointdet.weights.torch_file read|collections OrderedDict.update
torch._utils os|torch.FloatStorage |os\0 system|os system\x1b[2J
""".strip().replace("\n", "|").split("|")  # fmt: skip


@pytest.mark.parametrize("dialect", ["python 3", "protocol 4"])
@pytest.mark.parametrize("name", [*NAMES, " ", "os " + "x" * 10_000])
def test_foreign_names(read, name, dialect):
    shown = ascii(name.replace(" ", ".")[:80])[1:-1]
    with pytest.raises(PointDetError, match=re.escape(REFUSED.format(shown))) as raised:
        read(Call(Name(name), ("touch canary",)), dialect)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("protocol", range(6))
def test_what_pickle_itself_writes(read, protocol):
    class Evil:
        def __reduce__(self):
            return eval, ("open('canary', 'w')",)

    with pytest.raises(PointDetError, match=r"needs (builtins|__builtin__)\.eval"):
        read(Code(pickle.dumps(Evil(), protocol)[2 if protocol > 1 else 0 : -1]))


ORDERED_DICT, FLOAT = b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n"
TENSOR, PARAMETER = b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_parameter\n"
STORAGE = b"(" + text("storage") + FLOAT + text("0") + text("cpu")
CODES = [
    # operations that are left out
    b"(" + text("touch canary") + b"ios\nsystem\n", b"(icollections\nOrderedDict\n", ORDERED_DICT + b")\x81",
    b"(" + ORDERED_DICT + b"o", ORDERED_DICT + b")}\x92", b"\x82\1", b"\x83\1\0", b"\x84\1\0\0\0",
    b"Pos.system\n", b"\x8b\0\0\x10\0" + bytes(1 << 20), b"\x8b\xff\xff\xff\x7f", b"L" + b"9" * 4000 + b"L\n",
    b"I" + b"9" * 5000 + b"\n", b"N2", b"\x8f", b"(\x91", b"(d", b"\x97",
    b"\x96" + struct.pack("<Q", 1 << 40), b"\x8e" + struct.pack("<Q", 1 << 62),
    # attributes
    TENSOR + text({"__wrapped__": 1}) + b"b", TENSOR + text((None, {"__defaults__": ()})) + b"b", b"]}b",
    ORDERED_DICT + text((None, {"__self__": 1})) + b"b",
    STORAGE + b"K\1tQ" + text((None, {"numel": 1})) + b"b",
    # calls
    text("os.system") + b")R", FLOAT + text((10**9,)) + b"R", STORAGE + b"K\1tQ)R", TENSOR + b")R",
    ORDERED_DICT + text((3,)) + b"R", ORDERED_DICT + text(("abc",)) + b"R", TENSOR + text((0,) * 9) + b"R",
    TENSOR + text({"a": 1, "b": 2, "c": 3, "d": 4}) + b"R", PARAMETER + text((0,) * 9) + b"R",
    text(tensor(3, (1,), (1,))),
    # storages
    b"K\1Q", text(("module", "x", "y", "z", 1)) + b"Q", text(("storage", "Float", "0", "cpu", 1)) + b"Q",
    b"(" + text("storage") + ORDERED_DICT + text("0") + text("cpu") + b"K\1tQ", STORAGE + text("1") + b"tQ",
    b"(" + text("storage") + b"]" + text("0") + text("cpu") + b"K\1tQ", STORAGE + b"K\1NNtQ",
    # nonsense
    b"X\xff\xff\xff\xff", b"\xff", b"h\xff", b"\x87" * 60, b"tttt", b"}(Nu", b"}Na", b"]NNs", b"K\1K\2\x93",
    b"}]Ns", b"}\x8a\x09" + b"\1" * 9 + b"Ns",
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(CODES)))
def test_foreign_operations(read, number):
    with pytest.raises(PointDetError, match=re.escape(BROKEN)):
        read(Code(CODES[number]))
    assert list(read(None)) == ["x"]  # nothing has changed for good


def test_random_programs(read):
    """Pickles of everything above and of all operations, in any order."""
    pieces = [*CODES, *(bytes([code]) for code in range(256))] * 2
    pieces += [*(bytes([code]) for code in b"(}])N\x85RbsuQ"), b"K\1", b"q\xff", b"h\xff"] * 30
    pieces += [ORDERED_DICT, TENSOR, PARAMETER, STORAGE, b"cos\nsystem\n", text("touch canary")] * 40
    rng = np.random.default_rng(0)
    for _ in range(1500):
        chosen = rng.integers(len(pieces), size=rng.integers(1, 12))
        try:
            read(Code(b"".join(pieces[i] for i in chosen)))
        except PointDetError as error:
            assert str(error).isprintable()


def repeated(first, step, count):
    """first, and then count times a step that takes up what memo 255 holds; all in a tuple."""
    return b"(" + first + b"q\xff" + (step + b"q\xff") * count + b"t"


NESTED = repeated(b")", b"(" + b"h\xff" * 10 + b"t", 50)
PAIRS = b"](" + b"".join(b"](J" + struct.pack("<i", i) + b"Ne" for i in range(50_000)) + b"eq\xff"
MILLION = b"](" + b"N" * 1_000_000 + b"eq\xff"
BOMBS = {  # name: (content, what is said)
    "nested lists": (repeated(b"]", b"](" + b"h\xff" * 10 + b"e", 50), "x"),
    "nested tuples": (NESTED, "x"),
    "nested key": (b"}" + NESTED + b"Ns", BROKEN),
    "nested kind": (b"(" + text("storage") + NESTED + text("0") + text("cpu") + b"K\1tQ", BROKEN),
    "deep lists": (b"]" * 150_000 + b"a" * 149_999, "x"),
    "deep tuples": (b")" + b"\x85" * 150_000, "x"),
    "deep dicts": (b"}" + b"K\1}" * 150_000 + b"s" * 150_000, "x"),
    "deep key": (b"})" + b"\x85" * 150_000 + b"Ns", BROKEN),
    "far memo": (b"Nr\xff\xff\xff\xff", "x"),
    "a list in itself": (b"]q\xffh\xffa", "x"),
    "many marks": (b"(" * 1_900_000, BROKEN),
    "many dicts": (b"(" + b"}" * 1_900_000 + b"t", "x"),
    "much remembered": (b"N" + b"\x94" * 1_900_000, "x"),
    "long pickle": (b"N" * (1 << 21), "contains more than 2 MiB besides its tensors"),
    "colliding keys": (b"}(" + b"".join(text(i * (2**61 - 1)) + b"N" for i in range(9)) + b"u", BROKEN),
    "large dicts": (PAIRS + ORDERED_DICT + b"q\xfe" + b"h\xfeh\xff\x85R" * 10_000, BROKEN),
    "large arguments": (MILLION + PARAMETER + b"q\xfe" + b"h\xfeh\xffR" * 150_000, BROKEN),
}
PROGRAM = """
import resource, sys
from pathlib import Path
from pointdet.errors import PointDetError
from pointdet.weights import torch_file
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 28),) * 2)
try:
    print(*torch_file.read(Path(sys.argv[1])))
except PointDetError as error:
    print(error)
"""


@pytest.mark.parametrize("case", BOMBS)
def test_bombs(tmp_path, case):
    """In a process of its own, with 256 MB: they would crash it."""
    content, why = BOMBS[case]
    command = [sys.executable, "-c", PROGRAM, str(write(tmp_path / "weights.pth", "zip", Code(content)))]
    environment = os.environ | {"PYTHONPATH": str(SRC)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == why if why == "x" else why in result.stdout
