# SPDX-License-Identifier: Apache-2.0
"""Hostile .npz files are refused before they take memory or time."""

import io
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from pointdet.errors import PointDetError
from pointdet.weights import npz_file, plain_file

DATA = np.arange(6, dtype=np.float32).tobytes()


def member(
    header=b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n", data=DATA, version=b"\x01\x00"
):
    """The bytes of a .npy file."""
    return (
        b"\x93NUMPY" + version + len(header).to_bytes(2 if version[0] == 1 else 4, "little") + header + data
    )


def archive(content, compression=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        file.writestr("x.npy", content)
    return out.getvalue()


HOSTILE = {
    "terabytes": archive(member(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }\n")),
    "objects": archive(member(b"{'descr': '|O', 'fortran_order': False, 'shape': (6,), }\n")),
    "records": archive(member(b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6,), }\n")),
    "code": archive(member(b"{'descr': __import__('os').getcwd(), 'fortran_order': False, 'shape': (6,), }\n")),
    "nested": archive(member(b"(" * 9000)),
    "many digits": archive(member(b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"1" * 9000 + b"), }")),
    "negative": archive(member(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -3), }\n")),
    "long header": archive(member(b"{" + b" " * 20_000)),
    "more data": archive(member(data=DATA + b"more")),
    "less data": archive(member(data=DATA[:-1])),
    "no array": archive(b"text"),
    "bzip2": archive(member(), zipfile.ZIP_BZIP2),
    "bomb": archive(bytes(1 << 20), zipfile.ZIP_DEFLATED).replace((1 << 20).to_bytes(4, "little"), b"\xfe\xff\xff\x7f"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(tmp_path, name):
    path = tmp_path / "x.npz"
    path.write_bytes(HOSTILE[name])
    start = time.process_time()
    tracemalloc.start()
    with pytest.raises(PointDetError, match="x.npz is not a whole .npz file of numbers"):
        plain_file.read(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 23
    tracemalloc.stop()
    assert time.process_time() - start < 1


def test_an_encrypted_member(tmp_path):
    data = bytearray(archive(member()))
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + place] |= 1
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(PointDetError, match="x.npz is not a whole .npz file of numbers"):
        plain_file.read(tmp_path / "x.npz")


@pytest.mark.parametrize("writer", [np.savez, np.savez_compressed])
def test_files_of_numpy_are_read(tmp_path, writer):
    grid = np.arange(24).reshape(2, 3, 4)
    arrays = {f"a/{kind}": grid.astype(kind) for kind in ("f4", ">f8", "f2", "i8", "u1", "?")}
    arrays |= {
        "fortran": np.asfortranarray(grid),
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 3)),
        "one": np.ones(1),
    }
    writer(tmp_path / "x.npz", **arrays)
    found = npz_file.read(tmp_path / "x.npz")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_more_than_the_memory(tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", a=np.zeros(1 << 10))
    monkeypatch.setattr("pointdet.available_memory.available_bytes", lambda: 1000)
    with pytest.raises(
        PointDetError, match=r"reading .*x.npz needs 1 MiB, but 1 MiB of memory are available"
    ):
        plain_file.read(tmp_path / "x.npz")


def test_an_array_that_is_larger_than_a_directory_may_be(tmp_path):
    array = np.random.default_rng(0).standard_normal((3 << 20,), np.float32)
    for writer in (np.savez, np.savez_compressed):
        writer(tmp_path / "x.npz", a=array)
        np.testing.assert_array_equal(npz_file.read(tmp_path / "x.npz")["a"], array, strict=True)
