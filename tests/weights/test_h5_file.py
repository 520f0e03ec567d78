# SPDX-License-Identifier: Apache-2.0
"""NNabla and PointDet read each other's .h5 files; broken files are refused."""

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
