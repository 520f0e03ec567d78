# SPDX-License-Identifier: Apache-2.0
"""Writing and reading of safetensors and .npz files; broken files are refused."""

import json

import numpy as np
import pytest

from pointdet.errors import PointDetError
from pointdet.weights import plain_file

ARRAYS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(5, np.float32)}


@pytest.mark.parametrize("suffix", plain_file.SUFFIXES)
def test_written_arrays_are_read(tmp_path, suffix):
    path = tmp_path / "deep" / f"x{suffix}"
    plain_file.write(path, {**ARRAYS, "transposed": ARRAYS["a.weight"].T}, {"k": "v"})
    found = plain_file.read(path)
    assert set(found) == {*ARRAYS, "transposed"}
    np.testing.assert_array_equal(found["transposed"], ARRAYS["a.weight"].T, strict=True)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", plain_file.SUFFIXES)
def test_broken_files(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    with pytest.raises(PointDetError, match="there is no weight file"):
        plain_file.read(path)
    plain_file.write(path, ARRAYS, {})
    whole = path.read_bytes()
    for data in (b"", whole[: len(whole) // 2], b"x" * 100, whole[:-1]):
        path.write_bytes(data)
        with pytest.raises(PointDetError, match=f"is not a whole {suffix} file of numbers; copy or download"):
            plain_file.read(path)


def test_pickle_in_an_npz_file_is_not_executed(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.array([{}], dtype=object))
    with pytest.raises(PointDetError, match="is not a whole .npz file of numbers"):
        plain_file.read(path)


def test_path_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(PointDetError, match="cannot write .*x.npz"):
        plain_file.write(tmp_path / "file" / "x.npz", ARRAYS, {})


def safetensors(header, data=b"1234"):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def one(kind, shape, size):
    return {"a": {"dtype": kind, "shape": shape, "data_offsets": [0, size]}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (safetensors(one("F8_E4M3", [4], 4)), "has tensors of a type that NumPy does not have, such as bfloat16 or float8"),
        (safetensors(one("C64", [1], 8), b"12345678"), "a of .*x.safetensors consists of complex64 instead of real numbers"),
        ((10**12).to_bytes(8, "little") + b"{}", "is not a whole .safetensors file"),
        (safetensors(one("F32", [10**12], 4 * 10**12)), "is not a whole .safetensors file"),
        (safetensors(one("F32", [2**32, 2**32], 0), b""), "is not a whole .safetensors file"),
        (safetensors(one("F32", [1], 4))[:-1] + b"", "is not a whole .safetensors file"),
    ],
)  # fmt: skip
def test_hostile_safetensors(tmp_path, content, message):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(PointDetError, match=message):
        plain_file.read(path)


def test_complex_numbers_in_an_npz_file(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros(2, complex))
    with pytest.raises(PointDetError, match="a of .*x.npz consists of complex128 instead of real numbers"):
        plain_file.read(tmp_path / "x.npz")
