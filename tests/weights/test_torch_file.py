# SPDX-License-Identifier: Apache-2.0
"""What torch.save wrote comes back: every type and view, in both layouts, whatever the tensors are wrapped in."""

import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest
import torch_writer
from torch_writer import Call, File, Name, Persistent, tensor

from pointdet.errors import PointDetError
from pointdet.weights import torch_file

LAYOUTS = ("zip", "legacy")
DIALECTS = ("python 3", "python 2", "protocol 4")


@pytest.fixture(params=LAYOUTS)
def file(request):
    return File(request.param)


@pytest.fixture
def read(tmp_path):
    """read(bytes): the contents of a file with these bytes."""

    def read(data):
        path = tmp_path / "weights.pth"
        path.write_bytes(data)
        return torch_file.read_contents(path)

    return read


def noise(*shape):
    return np.random.default_rng(0).normal(0, 50, shape)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_type(file, read, dialect):
    arrays = {code: noise(2, 3).astype(code) for code in ("f8", "f4", "f2", "i8", "i4", "i2", "i1")}
    arrays |= {
        "u1": np.arange(6, dtype="u1"),
        "b1": noise(5) > 0,
        "scalar": np.array(7),
        "empty": np.empty((0, 3), "f4"),
    }
    content = OrderedDict((name, file.tensor(array)) for name, array in arrays.items())
    found = read(file.written(content, dialect))
    assert list(found.tensors) == list(arrays) and not found.scalars
    for name, array in arrays.items():
        assert found.tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(found.tensors[name], array, strict=True)
        assert not found.tensors[name].flags.writeable or not array.size


def test_bfloat16_becomes_float32(file, read):
    values = np.array([0.0, -0.0, 1.0, -2.5, 3.140625, 2.0**127, np.inf, -np.inf], np.float32)
    bits = (values.view("u4") >> 16).astype("u2")
    found = read(file.written({"x": file.tensor(bits, "BFloat16")})).tensors["x"]
    np.testing.assert_array_equal(found, values, strict=True)


def test_bytes_beside_zero_and_one_are_true(file, read):
    found = read(file.written({"x": file.tensor(np.array([0, 1, 2, 255], "u1"), "Bool")})).tensors["x"]
    np.testing.assert_array_equal(found, [False, True, True, True], strict=True)


@pytest.mark.parametrize("old", [False, True])
def test_views_share_their_storage(file, read, old):
    block = noise(60).astype("f4")
    storage = file.storage(block)
    whole = block.reshape(3, 4, 5)
    views = {  # name: (expected, size, strides, offset)
        "whole": (whole, (3, 4, 5), (20, 5, 1), 0),
        "part": (whole[1:, ::2, 3], (2, 2), (20, 10), 23),
        "turned": (whole.transpose(2, 0, 1), (5, 3, 4), (1, 20, 5), 0),
        "repeated": (np.broadcast_to(block[7], (3, 2)), (3, 2), (0, 0), 7),
        "last": (block[59], (), (), 59),
        "one": (block[59:], (1,), (10**30,), 59),  # the stride of a single row is never used
        "none": (block[:0], (0,), (1,), 60),
    }
    content = {
        name: tensor(storage, size, strides, offset, old)
        for name, (_, size, strides, offset) in views.items()
    }
    found = read(file.written(content)).tensors
    for name, (expected, *_) in views.items():
        np.testing.assert_array_equal(found[name], expected, err_msg=name)
        assert np.shares_memory(found[name], found["whole"]) == (name != "none")


def test_views_of_storages(read):
    """What only torch before 1.0 wrote."""
    file = File("legacy")
    block = noise(10).astype("f4")
    part = file.storage(block, view=(4, 3))
    content = {"part": tensor(part, (3,), (1,)), "end": tensor(part, (2,), (1,), 1)}
    found = read(file.written(content)).tensors
    np.testing.assert_array_equal(found["part"], block[4:7])
    np.testing.assert_array_equal(found["end"], block[5:7])


def test_parameters(file, read):
    parameter = Name("torch._utils _rebuild_parameter")
    array = noise(2, 2).astype("f4")
    content = {"x": Call(parameter, (file.tensor(array), True, OrderedDict()))}
    np.testing.assert_array_equal(read(file.written(content)).tensors["x"], array)


@pytest.mark.parametrize("byte_order", ["little", "big"])
@pytest.mark.parametrize("prefix", ["archive", "ctdet coco", "модель", ".."])
def test_any_prefix_and_byte_order(tmp_path, read, byte_order, prefix):
    file = File("zip")
    array = noise(3).astype("f4")
    bits = (array.view("u4") >> 16).astype("u2")
    content = {"x": file.tensor(array), "half": file.tensor(bits, "BFloat16")}
    found = read(file.written(content, prefix=prefix, byte_order=byte_order)).tensors
    np.testing.assert_array_equal(found["x"], array)
    np.testing.assert_array_equal(found["half"], (bits.astype("u4") << 16).view("f4"))
    assert found["x"].dtype.byteorder == ("=" if byte_order == "little" else ">")
    np.testing.assert_array_equal(torch_file.read(tmp_path / "weights.pth")["x"], array, strict=True)


@pytest.mark.parametrize(
    "wrappers", [(), ("state_dict",), ("model",), ("net",), ("net", "model", "state_dict")]
)
def test_wrappers_and_scalars(file, read, wrappers):
    content = OrderedDict({"module.a": file.tensor(noise(2)), "module_list.module.b": file.tensor(noise(3))})
    for depth, name in enumerate(wrappers):
        moments = {
            "state": {0: {"step": 3, "exp_avg": file.tensor(noise(2))}},
            "param_groups": [{"lr": 1e-3}],
        }
        content = {
            f"epoch{depth}": 140 + depth,
            name: content,
            "optimizer": moments,
            "best": 0.5,
            "note": "x",
            "no": None,
        }
    found = read(file.written(content))
    assert list(found.tensors) == ["a", "module_list.module.b"]
    epochs = {f"epoch{depth}": 140 + depth for depth in range(len(wrappers))}
    assert found.scalars == (epochs | {"best": 0.5, "note": "x"} if wrappers else {})


@pytest.mark.parametrize("dialect", DIALECTS)
def test_keys_of_a_real_network(file, read, golden, dialect):
    shapes = golden("networks.json")["dlav0"]["parameters"]
    rng = np.random.default_rng(1)
    arrays = {}
    for key, shape in shapes:  # one row of each
        counter = key.endswith("num_batches_tracked")
        arrays[key] = np.array(9) if counter else rng.standard_normal((1, *shape[1:])).astype("f4")
    state = OrderedDict((f"module.{key}", file.tensor(array)) for key, array in arrays.items())
    found = read(file.written({"epoch": 230, "state_dict": state}, dialect))
    assert list(found.tensors) == [key for key, _ in shapes] and found.scalars == {"epoch": 230}
    for key, array in arrays.items():
        np.testing.assert_array_equal(found.tensors[key], array, strict=True)


def test_read_gives_float32(file, tmp_path):
    path = tmp_path / "weights.t7"
    arrays = {
        "a": noise(2, 3),
        "b": np.array(5),
        "c": noise(4).astype("f4"),
        "large": np.array([1e300, np.nan]),
    }
    path.write_bytes(file.written({name: file.tensor(array) for name, array in arrays.items()}))
    found = torch_file.read(path)
    for name, array in arrays.items():
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(found[name], array.astype("f4"), strict=True)


def test_a_large_file_takes_little_memory(tmp_path):
    """200 MB that are nowhere on the disk."""
    file = File("legacy")
    count = 50_000_000
    storage = Persistent(("storage", Name("torch FloatStorage"), "0", "cpu", count, None))
    file.blocks["0"] = np.empty(0, "f4")
    data = file.written({"x": tensor(storage, (count // 4, 4), (4, 1))})
    path = tmp_path / "weights.pth"
    path.write_bytes(data[:-8] + count.to_bytes(8, "little"))
    with path.open("r+b") as handle:
        handle.truncate(len(data) + 4 * count)
    tracemalloc.start()
    try:
        found = torch_file.read(path)["x"]
        assert found.shape == (count // 4, 4) and not found[::1_000_000].any()
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()


BOUNDS = {  # size, strides, offset: in a storage of 12 numbers
    "too many": ((13,), (1,), 0),
    "too far": ((12,), (1,), 1),
    "offset": ((), (), 12),
    "large offset": ((1,), (1,), 10**30),
    "stride": ((2, 3), (10, 1), 0),
    "large stride": ((2,), (10**30,), 0),
    "repeated": ((10**6, 10**6), (0, 0), 0),
    "repeated, large": ((10**30,), (0,), 0),
    "empty, large": ((10**12, 0), (0, 1), 0),
    "negative size": ((-1,), (1,), 0),
    "negative stride": ((3,), (-1,), 5),
    "negative offset": ((3,), (1,), -1),
    "unequal": ((3, 4), (1,), 0),
    "dimensions": ((1,) * 33, (1,) * 33, 0),
    "no number": (("3",), (1,), 0),
}


@pytest.mark.parametrize("case", BOUNDS)
def test_outside_its_storage(file, read, case):
    size, strides, offset = BOUNDS[case]
    content = {"x": tensor(file.storage(noise(12).astype("f4")), size, strides, offset)}
    with pytest.raises(PointDetError, match="weights.pth is not a whole weight file"):
        read(file.written(content))


def test_many_tensors_that_repeat_a_few_numbers(file, read):
    storage = file.storage(np.zeros(1, "u1"))
    content = {str(i): tensor(storage, (10_000,), (0,)) for i in range(50)}
    with pytest.raises(PointDetError, match="its tensors are larger than the file"):
        read(file.written(content))


def test_no_tensors_by_name(file, read):
    x = file.tensor(noise(2))
    loop = torch_writer.Code(b"}q\x07X\x05\x00\x00\x00modelh\x07s")  # a dict that is its own model
    for content in (
        [x],
        x,
        {"weights": {"x": x}},
        {"epoch": 3, "x": [x]},
        {"x": x.arguments[0], "model": loop},
    ):
        with pytest.raises(PointDetError, match="holds no tensors by name"):
            read(file.written(content))


@pytest.mark.parametrize("names", [(5,), ("",), ("a\nb",), ("a", "module.a")])
def test_no_names(file, read, names):
    with pytest.raises(
        PointDetError, match=f"the name of its tensor {len(names)} is no text or stands twice"
    ):
        read(file.written({name: file.tensor(noise(2)) for name in names}))
