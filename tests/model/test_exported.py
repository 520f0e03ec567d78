# SPDX-License-Identifier: Apache-2.0
"""Errors of .onnx and .nnp files that cannot be loaded, and the number of threads of ONNX Runtime."""

import sys

import numpy as np
import pytest
import tiny
from onnx import TensorProto, helper

from pointdet.errors import PointDetError
from pointdet.export import nnp
from pointdet.export.onnx import OPSET
from pointdet.model.exported import NnpNetwork, OnnxNetwork, thread_count


@pytest.fixture(scope="module")
def nnp_file(tmp_path_factory):
    """x.nnp with x.json, of a network for inputs of 64 x 64."""
    folder = tmp_path_factory.mktemp("exported")
    nnp.write(tiny.model(tiny.config(folder)), folder / "x.nnp")
    return folder / "x.nnp"


def test_nnp_with_another_input_size(nnp_file):
    with pytest.raises(
        PointDetError, match="x.nnp was saved for inputs of 64 x 64, not 64 x 96; export it with this"
    ):
        NnpNetwork(nnp_file)(np.zeros((1, 64, 96, 3), np.uint8))


def test_nnp_without_its_metadata(tmp_path, nnp_file):
    (tmp_path / "x.nnp").write_bytes(nnp_file.read_bytes())
    for content in ("{", "{}"):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(PointDetError, match="x.json"):
            NnpNetwork(tmp_path / "x.nnp")
    (tmp_path / "x.json").unlink()
    with pytest.raises(
        PointDetError, match="x.nnp needs x.json, which was saved with it, in the same folder"
    ):
        NnpNetwork(tmp_path / "x.nnp")


@pytest.mark.parametrize("content", [None, b"", b"PK no archive"], ids=["missing", "empty", "garbage"])
def test_broken_nnp(tmp_path, content):
    path = tmp_path / "x.nnp"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PointDetError, match="x.nnp is not a network saved by PointDet") as raised:
        NnpNetwork(path)
    assert "\n" not in str(raised.value)


def write_foreign_onnx(path):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    opset = helper.make_opsetid("", OPSET)
    path.write_bytes(helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString())


def test_broken_or_foreign_onnx(tmp_path):
    path = tmp_path / "x.onnx"
    with pytest.raises(PointDetError, match="cannot read .*x.onnx"):
        OnnxNetwork(path)
    for content in (b"", b"no protobuf"):
        path.write_bytes(content)
        with pytest.raises(
            PointDetError, match="x.onnx is not a network that ONNX Runtime can load"
        ) as raised:
            OnnxNetwork(path)
        assert "\n" not in str(raised.value)
    write_foreign_onnx(path)
    with pytest.raises(PointDetError, match="x.onnx was not saved by PointDet"):
        OnnxNetwork(path)


def test_missing_onnx_runtime(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        PointDetError, match="ONNX Runtime is not installed; pip install -r requirements-onnx.txt"
    ):
        OnnxNetwork(tmp_path / "x.onnx")


def test_thread_count(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    assert thread_count() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert thread_count() == 2
