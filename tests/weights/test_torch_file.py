# SPDX-License-Identifier: Apache-2.0
"""What torch.save wrote comes back from both layouts; anything else is refused in one sentence."""

import gzip
import io
import mmap
import resource
import struct
import tarfile
import tracemalloc
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from torch_writer import Call, Code, File, Name, Persistent, pickled, tensor, zipped

from pointdet.errors import PointDetError
from pointdet.weights import torch_file

DIALECTS = ("python 3", "python 2", "protocol 4")


@pytest.fixture(params=["zip", "legacy"])
def file(request):
    return File(request.param)


@pytest.fixture
def read(tmp_path):
    """read(bytes): the tensors of a file with these bytes."""

    def read(data):
        path = tmp_path / "weights.pth"
        path.unlink(missing_ok=True)  # much faster than writing over it
        path.write_bytes(data)
        return torch_file.read(path)

    return read


def noise(*shape):
    return np.random.default_rng(0).normal(0, 50, shape)


def single(*shape):
    return noise(*shape).astype("f4")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_type(file, read, dialect):
    arrays = {code: noise(2, 3).astype(code) for code in ("f8", "f4", "f2", "i8", "i4", "i2", "i1")}
    arrays |= {"u1": np.arange(6, dtype="u1"), "b1": noise(5) > 0, "large": np.array([1e300, np.nan])}
    arrays |= {"scalar": np.array(7), "empty": np.empty((0, 3), "f4")}
    found = read(file.written(OrderedDict((k, file.tensor(array)) for k, array in arrays.items()), dialect))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(found[name], array.astype("f4"), strict=True)


def test_bfloat16_and_odd_bool(file, read):
    values = np.array([0.0, -0.0, 1.0, -2.5, 3.140625, 2.0**127, np.inf, -np.inf], np.float32)
    bits = (values.view("u4") >> 16).astype("u2")
    half, truth = file.tensor(bits, "BFloat16"), file.tensor(np.array([0, 1, 2, 255], "u1"), "Bool")
    one = file.tensor(bits[3], "BFloat16")
    found = read(file.written({"half": half, "one": one, "truth": truth}))
    np.testing.assert_array_equal(found["half"].view("u4"), values.view("u4"), strict=True)
    np.testing.assert_array_equal(found["one"], np.float32(-2.5), strict=True)
    np.testing.assert_array_equal(found["truth"], np.array([0, 1, 1, 1], "f4"), strict=True)


@pytest.mark.parametrize("old", [False, True])
def test_views_share_their_storage_in_the_mapped_file(file, read, old):
    block = single(60)
    storage = file.storage(block)
    whole = block.reshape(3, 4, 5)
    views = {  # name: (expected, size, strides, offset)
        "whole": (whole, (3, 4, 5), (20, 5, 1), 0),
        "part": (whole[1:, ::2, 3], (2, 2), (20, 10), 23),
        "turned": (whole.transpose(2, 0, 1), (5, 3, 4), (1, 20, 5), 0),
        "repeated": (np.broadcast_to(block[7], (3, 2)), (3, 2), (0, 0), 7),
        "last": (block[59], (), (), 59),
        "one": (block[59:], (1,), (10**30,), 59),  # the stride of a single row is never used
    }
    content = {name: tensor(storage, *view, old) for name, (_, *view) in views.items()}
    found = read(file.written(content | {"none": tensor(storage, (0,), (1,), 60, old)}))
    assert found["none"].shape == (0,)
    for name, (expected, *_) in views.items():
        np.testing.assert_array_equal(found[name], expected, err_msg=name)
        assert np.shares_memory(found[name], found["whole"]) and not found[name].flags.writeable
        assert isinstance(found[name].base, mmap.mmap)


def test_views_of_storages_and_parameters(read):
    """Views are what only torch before 1.0 wrote."""
    file, block = File("legacy"), single(10)
    part = tensor(file.storage(block, view=(4, 3)), (2,), (1,), 1)
    parameter = Call(Name("torch._utils _rebuild_parameter"), (part, True, OrderedDict()))
    for found in read(file.written({"part": part, "parameter": parameter})).values():
        np.testing.assert_array_equal(found, block[5:7])


@pytest.mark.parametrize("byte_order", ["little", "big"])
@pytest.mark.parametrize("prefix", ["archive", "ctdet coco", "модель", ".."])
def test_any_prefix_and_byte_order(read, byte_order, prefix):
    file, bits = File("zip"), (single(3).view("u4") >> 16).astype("u2")
    content = {"x": file.tensor(single(3)), "half": file.tensor(bits, "BFloat16")}
    found = read(file.written(content, prefix=prefix, byte_order=byte_order))
    np.testing.assert_array_equal(found["x"], single(3), strict=True)
    np.testing.assert_array_equal(found["half"], (bits.astype("u4") << 16).view("f4"), strict=True)


@pytest.mark.parametrize("wrappers", ["", "state_dict", "model", "net", "net model state_dict"])
def test_wrappers(file, read, wrappers):
    content = OrderedDict({"module.a": file.tensor(noise(2)), "module_list.module.b": file.tensor(noise(3))})
    for name in wrappers.split():
        content = {"epoch": 140, name: content, "optimizer": {"state": {0: {"step": 3}}}, "no": None}
    assert list(read(file.written(content))) == ["a", "module_list.module.b"]


def test_a_large_file_takes_little_memory(tmp_path):
    """200 MB that are nowhere on the disk."""
    file, count = File("legacy", {"0": np.empty(0, "f4")}), 50_000_000
    storage = Persistent(("storage", Name("torch FloatStorage"), "0", "cpu", count, None))
    data = file.written({"x": tensor(storage, (count // 4, 4), (4, 1))})
    path = tmp_path / "weights.pth"
    path.write_bytes(data[:-8] + count.to_bytes(8, "little"))
    with path.open("r+b") as handle:
        handle.truncate(len(data) + 4 * count)
    tracemalloc.start()
    try:
        found = torch_file.read(path)["x"]
        assert found.shape == (count // 4, 4) and not found[::1_000_000].any()
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "size, strides, offset",
    [
        ((13,), (1,), 0), ((12,), (1,), 1), ((), (), 12), ((1,), (1,), 10**30), ((2, 3), (10, 1), 0),
        ((2,), (10**30,), 0), ((5,), (2**60,), 0), ((10**6, 10**6), (0, 0), 0), ((10**30,), (0,), 0),
        ((10**12, 0), (0, 1), 0), ((-1,), (1,), 0), ((3,), (-1,), 5), ((3,), (1,), -1), ((3, 4), (1,), 0),
        ((1,) * 33, (1,) * 33, 0), (("3",), (1,), 0), (("3",), (1,), "0"),
    ],
)  # fmt: skip
def test_outside_its_storage(file, read, size, strides, offset):
    with pytest.raises(PointDetError, match="weights.pth is not a whole weight file"):
        read(file.written({"x": tensor(file.storage(single(12)), size, strides, offset)}))


def test_many_tensors_that_repeat_a_few_numbers(file, read):
    storage = file.storage(np.zeros(1, "u1"))
    with pytest.raises(PointDetError, match="its tensors are larger than the file"):
        read(file.written({str(i): tensor(storage, (10_000,), (0,)) for i in range(50)}))


def test_no_tensors_by_name(file, read):
    x = file.tensor(noise(2))
    loop = Code(b"}q\xffX\x05\x00\x00\x00modelh\xffs")  # a dict that is its own model
    for content in ([x], x, {"weights": {"x": x}}, {"x": [x]}, {"x": x.arguments[0], "model": loop}):
        with pytest.raises(PointDetError, match="contains no named tensors"):
            read(file.written(content))


@pytest.mark.parametrize("names", [("",), ("a\nb",), ("a", "module.a")])
def test_bad_names(file, read, names):
    with pytest.raises(PointDetError, match="the name of a tensor is empty, unprintable or not"):
        read(file.written({name: file.tensor(noise(2)) for name in names}))


def small(layout):
    """A file with two tensors in one storage, one alone, and an epoch; and its tensors."""
    file, block = File(layout), np.arange(12, dtype="f4")
    shared = file.storage(block)
    state = OrderedDict({"module.a": tensor(shared, (3, 4), (4, 1)), "b": tensor(shared, (2, 2), (1, 2), 3)})
    state["module.n"] = file.tensor(np.array(5))
    expected = {"a": block.reshape(3, 4), "b": np.array([[3, 5], [4, 6]], "f4"), "n": np.array(5, "f4")}
    return file, {"epoch": 3, "state_dict": state}, expected


def members():
    """Name -> bytes of the small zip file."""
    file, content, _ = small("zip")
    return file.members(content)


def packed(**changes):
    """The small zip file; changes: attributes of each member's ZipInfo."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members().items():
            info = zipfile.ZipInfo(name)
            for key, value in changes.items():
                setattr(info, key, value)
            archive.writestr(info, data)
    return out.getvalue()


def directory(changes):
    """The small zip file; changes: member -> (offset in its entry in the list of contents, new bytes)."""
    data = bytearray(packed())
    for name, (offset, new) in changes.items():
        at = data.rindex(name.encode()) - 46 + offset
        data[at : at + len(new)] = new
    return bytes(data)


def tar():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("sys_info"))
    return out.getvalue()


def written(layout):
    file, content, _ = small(layout)
    return file.written(content)


LEGACY = written("legacy")
HEADER = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
DATA = [f"archive/data/9400{i}" for i in range(2)]
NUMBERS = np.arange(12, dtype="f4").tobytes()
SCRIPT = zipped({"m/data.pkl": pickled({}), "m/constants.pkl": b""})
LONG = pickled({"x" * 1000 + str(i): "x" * 1000 for i in range(2200)})
OTHERS = {  # name: (bytes, sentence)
    "empty": (b"", "weights.pth cannot be read .cannot mmap an empty file."),
    "web page": (b"\n<!DOCTYPE html><html>Quota exceeded</html>", "is a web page, not a weight file"),
    "safetensors": (struct.pack("<Q", len(HEADER)) + HEADER, "is a safetensors file; with torch"),
    "safetensors like a pickle": (struct.pack("<Q", 128) + HEADER.ljust(128), "is a safetensors file"),
    "tar": (tar(), "is a tar file of the first versions of torch; with torch"),
    "TorchScript": (SCRIPT, "is a TorchScript program; with torch"),
    "zip": (zipped({"readme.txt": b""}), "is a zip file that torch.save did not write"),
    "two in a zip": (zipped({"a/data.pkl": b"", "b/data.pkl": b""}), "is a zip file that torch.save did not"),
    "pickle": (pickled({"x": 3}), "is a pickle that torch.save did not write"),
    "gzip": (gzip.compress(packed()), "is not a weight file of torch"),
    "text": (b"version https://git-lfs.github.com/spec/v1", "is not a weight file of torch"),
    "compressed": (packed(compress_type=zipfile.ZIP_DEFLATED), "was compressed or encrypted after"),
    "encrypted": (directory({DATA[0]: (8, b"\1")}), "was compressed or encrypted after"),
    "long pickle": (zipped({"a/data.pkl": LONG}), "contains more than 2 MiB besides its tensors"),
    "overlapping": (directory({DATA[1]: (42, bytes(4))}), "do not match their checksum"),
    "in each other": (directory({n: (20, b"\0\3\0\0" * 2) for n in DATA}), "members overlap"),
    "beyond the end": (directory({DATA[1]: (20, b"\0\1\0\0" * 2)}), "do not match their checksum"),
    "no such member": (
        directory({DATA[1]: (42, b"\7")}),
        "its zip members overlap or are outside of the file",
    ),
    "damaged numbers": (packed().replace(NUMBERS, NUMBERS[::-1]), "do not match their checksum"),
    "damaged pickle": (packed().replace(b"state_dict", b"stale_dict"), "do not match their checksum"),
    "byte order": (zipped(members() | {"archive/byteorder": b"middle"}), "its byte order is neither"),
    "missing storage": (packed().replace(b"data/94000", b"data/9400X"), "'94000' is missing or of another"),
    "short storage": (zipped(members() | {DATA[0]: bytes(47)}), "'94000' is missing or of another size"),
    "long storage": (zipped(members() | {DATA[0]: bytes(49)}), "'94000' is missing or of another size"),
    "long list": (zipped({f"{i:0>1000}": b"" for i in range(4200)} | members()), "its zip directory is miss"),
    "key that nothing names": (LEGACY.replace(b"94001", b"94009", 1), "its list of storages is damaged"),
    "count": (LEGACY[:-16] + struct.pack("<q", 1 << 60) + LEGACY[-8:], "its numbers are truncated"),
    "negative count": (LEGACY[:-16] + struct.pack("<q", -1) + LEGACY[-8:], "its numbers are truncated"),
    "no numbers": (LEGACY[:-72], "its numbers are truncated"),
    "other protocol": (LEGACY.replace(b"M\xe9\3", b"M\xea\3", 1), "a pickle that torch.save did not write"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_and_damaged_files(read, case):
    data, why = OTHERS[case]
    with pytest.raises(PointDetError, match=why) as raised:
        read(data)
    assert "weights.pth" in str(raised.value) and str(raised.value).isprintable()


def test_no_file(tmp_path):
    for name, why in (("", "Is a directory"), ("missing", "No such file"), ("x" * 300, "File name too long")):
        with pytest.raises(PointDetError, match=f"cannot be read .{why}"):
            torch_file.read(tmp_path / name)


GOOD = {
    "no checksums": directory({name: (16, bytes(4)) for name in members()}),  # torch can be told so
    "names that lead elsewhere": zipped({"/etc/passwd": b"x", "../../x": b"x", "C:\\x": b"x"} | members()),
    "padded": packed(extra=b"FB\x3c\0" + b"Z" * 60),
    "no byteorder": zipped({name: data for name, data in members().items() if "byteorder" not in name}),
}


@pytest.mark.parametrize("case", GOOD)
def test_unusual_but_good(read, case):
    found = read(GOOD[case])
    for name, array in small("zip")[2].items():
        np.testing.assert_array_equal(found[name], array, strict=True)


@pytest.fixture
def little_memory():
    """Half a gigabyte more than the process has now, and no more."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 29), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_truncated_anywhere(read, layout):
    data = written(layout)
    for length in range(0, len(data), 3):
        with pytest.raises(PointDetError):
            read(data[:length])


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_random_mutations(read, little_memory, layout):
    """Each gives the content or a sentence; the legacy layout has no checksum and may give other numbers."""
    whole, expected = written(layout), small(layout)[2]
    rng = np.random.default_rng(0)
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            at, kind = int(rng.integers(len(data))), rng.integers(4)
            if kind == 0:
                data[at] = rng.integers(256)
            elif kind == 1:
                data[at] ^= 1 << rng.integers(8)
            elif kind == 2:
                del data[at : at + int(rng.integers(1, 9))]
            else:
                data[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b""])
        try:
            found = read(data)
        except PointDetError as error:
            assert str(error).isprintable()
            continue
        assert sum(array.size for array in found.values()) <= len(data)
        if layout == "zip":
            assert list(found) == list(expected)
            for name, array in expected.items():
                np.testing.assert_array_equal(found[name], array, strict=True)


def test_random_bytes(read, little_memory):
    rng = np.random.default_rng(0)
    for start in (b"", b"PK\3\4", b"\x80\2", LEGACY[:40]):
        for length in range(0, 600, 3):
            with pytest.raises(PointDetError):
                read(start + rng.bytes(length))
