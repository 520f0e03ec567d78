# SPDX-License-Identifier: Apache-2.0
"""Files that are not what they should be: other formats, damaged and hostile ones, thousands of random ones."""

import io
import resource
import struct
import tarfile
import zipfile
from collections import OrderedDict

import h5py
import numpy as np
import pytest
from torch_writer import File, pickled, tensor, zipped

from pointdet.errors import PointDetError
from pointdet.weights import torch_file


@pytest.fixture
def read(tmp_path):
    """read(bytes): the tensors of a file with these bytes."""

    def read(data):
        path = tmp_path / "weights.pth"
        path.unlink(missing_ok=True)  # much faster than writing over it
        path.write_bytes(data)
        return torch_file.read_contents(path).tensors

    return read


def small(layout):
    """A file with two tensors in one storage, one alone, and an epoch; and its tensors."""
    file = File(layout)
    block = np.arange(12, dtype="f4")
    shared = file.storage(block)
    state = OrderedDict(
        {"module.a": tensor(shared, (3, 4), (4, 1)), "module.b": tensor(shared, (2, 2), (1, 2), 3)}
    )
    state["module.n"] = file.tensor(np.array(5))
    expected = {"a": block.reshape(3, 4), "b": np.array([[3, 5], [4, 6]], "f4"), "n": np.array(5)}
    return file, {"epoch": 3, "state_dict": state}, expected


def tar():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            archive.addfile(tarfile.TarInfo(name))
    return out.getvalue()


def h5():
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        file["x"] = np.zeros(3)
    return out.getvalue()


HEADER = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
OTHERS = {
    "empty": (b"", "weights.pth is empty"),
    "web page": (b"\n<!DOCTYPE html><html>Quota exceeded</html>", "is a web page and no weight file"),
    "safetensors": (struct.pack("<Q", len(HEADER)) + HEADER + bytes(4), "is a safetensors file; with torch"),
    "tar": (tar(), "is a tar file, which only the first versions of torch wrote; with torch"),
    "TorchScript": (
        zipped({"m/data.pkl": pickled({}), "m/constants.pkl": pickled(())}),
        "is a TorchScript program",
    ),
    "zip": (zipped({"readme.txt": b"no weights"}), "is a zip file that torch.save did not write"),
    "two files in a zip": (
        zipped({"a/data.pkl": b"", "b/data.pkl": b""}),
        "is a zip file that torch.save did not",
    ),
    "pickle": (pickled({"x": 3}), "is a pickle that torch.save did not write"),
    "h5": (h5(), "is no weight file of torch"),
    "text": (b"version https://git-lfs.github.com/spec/v1", "is no weight file of torch"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_files(read, case):
    data, why = OTHERS[case]
    with pytest.raises(PointDetError, match=why) as raised:
        read(data)
    assert "weights.pth" in str(raised.value) and "\n" not in str(raised.value)


def test_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "missing.pth"):
        with pytest.raises(PointDetError, match="there is no weight file"):
            torch_file.read(path)
    with pytest.raises(PointDetError, match="cannot be read .File name too long.; check its name"):
        torch_file.read(tmp_path / ("x" * 300))


def members():
    file, content, _ = small("zip")
    return file.members(content)


def packed(**changes):
    """The small file, each member `changed` by a function of its ZipInfo before it is written."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members().items():
            info = zipfile.ZipInfo(name)
            for key, value in changes.items():
                setattr(info, key, value)
            archive.writestr(info, data)
    return bytearray(out.getvalue())


def central(data, name):
    """Where the entry of a member begins in the list of contents."""
    return data.rindex(b"/" + name) - len("archive") - 46


def overlapping():
    data = packed()
    first, second = central(data, b"data/94000"), central(data, b"data/94001")
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    return data


def beyond():
    data = packed()
    entry = central(data, b"data/94001")
    data[entry + 20 : entry + 28] = struct.pack("<II", 1 << 20, 1 << 20)
    return data


def damaged(start):
    data = packed()
    data[data.index(start) + 1] ^= 1
    return data


ZIPS = {
    "compressed": (packed(compress_type=zipfile.ZIP_DEFLATED), "was compressed or encrypted after"),
    "encrypted": (bytes(packed()).replace(b"PK\1\2\x14\x03\x14\0\0\0", b"PK\1\2\x14\x03\x14\0\1\0"), "was compressed"),
    "bomb": (zipped(members() | {"archive/data.pkl": pickled({}) + bytes(1 << 24)}), "has a pickle of more than 16 MiB"),
    "duplicate": (zipped(members() | {"archive/data/9400X": b""}).replace(b"9400X", b"94001"), "a name stands twice"),
    "overlapping": (overlapping(), "its zip members lie in each other or nowhere"),
    "beyond the end": (beyond(), "its zip members lie in each other or nowhere"),
    "damaged numbers": (damaged(np.arange(12, dtype="f4").tobytes()), "do not give the checksum"),
    "damaged pickle": (damaged(b"state_dict"), "do not give the checksum"),
    "byte order": (zipped(members() | {"archive/byteorder": b"middle"}), "its byte order is neither"),
    "missing storage": (zipped({n: d for n, d in members().items() if n != "archive/data/94000"}), "'94000' is missing"),
    "short storage": (zipped(members() | {"archive/data/94000": bytes(47)}), "'94000' is missing or of another size"),
    "long storage": (zipped(members() | {"archive/data/94000": bytes(49)}), "'94000' is missing or of another size"),
    "long list": (zipped({f"{i:0>1000}": b"" for i in range(4200)} | members()), "its zip directory is missing or"),
}  # fmt: skip


@pytest.mark.parametrize("case", ZIPS)
def test_zip_faults(read, case):
    data, why = ZIPS[case]
    with pytest.raises(PointDetError, match=why):
        read(data)


def zip64():
    """Every size and offset in the 64 bit fields, as in files of more than 4 GiB."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members().items():
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(data)
    data = out.getvalue()
    at = data.rindex(b"PK\5\6")
    count, size, start = struct.unpack("<HII", data[at + 10 : at + 20])
    end = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, size, start)
    locator = b"PK\6\7" + struct.pack("<IQI", 0, at, 1)
    short = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return data[:at] + end + locator + short


def without_checksums():
    """As torch writes when it is told to save the time."""
    data = packed()
    for name in members():
        entry = central(data, name.removeprefix("archive/").encode())
        data[entry + 16 : entry + 20] = bytes(4)
    return data


GOOD = {
    "zip64": zip64(),
    "no checksums": without_checksums(),
    "names that lead elsewhere": zipped({"/etc/passwd": b"x", "../../x": b"x", "C:\\x": b"x"} | members()),
    "padded": packed(extra=b"FB\x3c\0" + b"Z" * 60),
    "no byteorder": zipped({name: data for name, data in members().items() if "byteorder" not in name}),
}


@pytest.mark.parametrize("case", GOOD)
def test_unusual_but_good(read, case):
    found = read(GOOD[case])
    for name, array in small("zip")[2].items():
        np.testing.assert_array_equal(found[name], array, strict=True)


LEGACY = {
    "a storage that no list names": (
        lambda data: data.replace(b"94001", b"94009", 1),
        "its list of storages is",
    ),
    "count": (
        lambda data: data[:-16] + struct.pack("<q", 1 << 60) + data[-8:],
        "it breaks off in its numbers",
    ),
    "negative count": (
        lambda data: data[:-16] + struct.pack("<q", -1) + data[-8:],
        "it breaks off in its numbers",
    ),
    "no numbers": (lambda data: data[:-72], "it breaks off in its numbers"),
    "other protocol": (
        lambda data: data.replace(struct.pack("<i", 1001), struct.pack("<i", 1002), 1),
        "a pickle that",
    ),
}


@pytest.mark.parametrize("case", LEGACY)
def test_legacy_faults(read, case):
    change, why = LEGACY[case]
    file, content, _ = small("legacy")
    with pytest.raises(PointDetError, match=why):
        read(change(file.written(content)))


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
    file, content, _ = small(layout)
    data = file.written(content)
    for length in range(0, len(data), 3):
        with pytest.raises(PointDetError):
            read(data[:length])


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_random_mutations(read, little_memory, layout):
    """Every answer is either the content or a sentence; the legacy layout has no checksum and may give others."""
    file, content, expected = small(layout)
    whole = file.written(content)
    rng = np.random.default_rng(0)
    told = 0
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
            told += str(error).isprintable()
            continue
        told += 1
        assert sum(array.size for array in found.values()) <= len(data)
        if layout == "zip":
            assert list(found) == list(expected)
            for name, array in expected.items():
                np.testing.assert_array_equal(found[name], array, strict=True)
    assert told == 2000


def test_random_bytes(read, little_memory):
    rng = np.random.default_rng(0)
    for start in (b"", b"PK\3\4", b"\x80\x02", small("legacy")[0].legacy({})[:40]):
        for length in range(0, 600, 3):
            with pytest.raises(PointDetError):
                read(start + rng.bytes(length))
