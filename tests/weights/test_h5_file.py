# SPDX-License-Identifier: Apache-2.0
"""NNabla and PointDet read each other's .h5 files; broken files are refused."""

import h5py
import nnabla as nn
import numpy as np
import pytest

from pointdet.errors import PointDetError
from pointdet.weights import h5_file


def arrays():
    rng = np.random.default_rng(0)
    shapes = {"z/conv/W": (4, 3, 3, 3), "z/bn/mean": (1, 4, 1, 1), "a/conv/b": (4,), "a/scale": ()}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def test_nnabla_reads_our_files(tmp_path):
    path = tmp_path / "x.h5"
    h5_file.write(path, {name: (array, not name.endswith("mean")) for name, array in arrays().items()})
    nn.load_parameters(str(path))
    found = nn.get_parameters(grad_only=False)
    assert list(found) == list(arrays())
    for name, array in arrays().items():
        np.testing.assert_array_equal(found[name].d, array)
        assert found[name].need_grad == (name != "z/bn/mean")


def test_files_of_nnabla_are_read(tmp_path):
    path = tmp_path / "x.h5"
    for name, array in arrays().items():
        nn.parameter.get_parameter_or_create(name, array.shape, array)
    nn.save_parameters(str(path))
    found = h5_file.read(path)
    assert list(found) == list(arrays())
    for name, array in arrays().items():
        np.testing.assert_array_equal(found[name], array)


def test_missing_empty_and_broken_files(tmp_path):
    path = tmp_path / "x.h5"
    with pytest.raises(PointDetError, match="there is no parameter file .*x.h5"):
        h5_file.read(path)
    h5_file.write(path, {})
    with pytest.raises(PointDetError, match="x.h5 holds no parameters"):
        h5_file.read(path)
    h5_file.write(path, {"a/W": (np.zeros((50, 50), np.float32), True)})
    whole = path.read_bytes()
    for broken in (b"", b"no HDF5 at all", whole[:100], whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(broken)
        with pytest.raises(PointDetError, match="x.h5 is not a whole .h5 file") as raised:
            h5_file.read(path)
        assert "\n" not in str(raised.value)


def external(file):
    file.create_dataset("a/W", (4,), "f4", external=[("secret", 0, 16)])


def external_link(file):
    file["a/W"] = h5py.ExternalLink("other.h5", "/x")


def soft_link(file):
    file["a/W"] = h5py.SoftLink("/b")


def virtual(file):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
    file.create_virtual_dataset("a/W", layout)


def terabytes(file):
    file.create_dataset("a/W", (10**6, 10**6), "f4", chunks=(1000, 1000), compression="gzip")


def never_written(file):
    file.create_dataset("a/W", (10**6, 10**6), "f4")


def text(file):
    file["a/W"] = "text"


def compound(file):
    file["a/W"] = np.zeros(3, [("x", "f4"), ("y", "i4")])


def no_values(file):
    file["a/W"] = h5py.Empty("f4")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (external, "the values of a/W of .*x.h5 are in other files"),
        (virtual, "the values of a/W of .*x.h5 are in other files"),
        (external_link, "x.h5 holds no parameters"),
        (soft_link, "x.h5 holds no parameters"),
        (terabytes, "a/W of .*x.h5 is 3,814,697 MiB, more than the file"),
        (never_written, "a/W of .*x.h5 is 3,814,697 MiB, more than the file"),
        (text, "a/W of .*x.h5 is text or other data instead of numbers"),
        (compound, "a/W of .*x.h5 is text or other data instead of numbers"),
        (no_values, "a/W of .*x.h5 is text or other data instead of numbers"),
    ],
)
def test_hostile_files(tmp_path, make, message):
    (tmp_path / "secret").write_bytes(b"sixteen letters.")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.ones(4, np.float32)
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        make(file)
    assert path.stat().st_size < 20_000
    with pytest.raises(PointDetError, match=message):
        h5_file.read(path)


def test_compressed_values_and_an_index_that_is_text(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        for name in ("b", "a"):
            file.create_dataset(name, data=np.ones((50, 50)), chunks=True, compression="gzip", shuffle=True)
            file[name].attrs["index"] = "text"
    assert list(h5_file.read(path)) == ["a", "b"]


def test_more_than_the_memory(tmp_path, monkeypatch):
    h5_file.write(tmp_path / "x.h5", {"a/W": (np.zeros((50, 50), np.float32), True)})
    monkeypatch.setattr("pointdet.available_memory.available_bytes", lambda: 9999)
    with pytest.raises(PointDetError, match=r"reading .*x.h5 needs 1 MiB, but 1 MiB of memory are available"):
        h5_file.read(tmp_path / "x.h5")
