# SPDX-License-Identifier: Apache-2.0
"""Errors of .onnx and .nnp files that cannot be loaded, and the number of threads of ONNX Runtime."""

import io
import json
import sys
import zipfile

import h5py
import numpy as np
import onnx
import pytest
import tiny
from onnx import TensorProto, helper

from pointdet.errors import PointDetError
from pointdet.export import nnp
from pointdet.export.onnx import OPSET
from pointdet.model.exported import NnpNetwork, OnnxNetwork, read_metadata, thread_count


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


@pytest.mark.parametrize("place", ["initializer", "attribute", "function"])
@pytest.mark.parametrize(
    "external",
    [
        {"location": "inside"},
        {"location": "../secret"},
        {"location": "{folder}/secret"},
        {"location": "missing"},
        {"location": "inside", "length": str(10**15)},
        {"location": "inside", "offset": str(10**12), "length": "16"},
        {
            "location": "*/_ORT_MEM_ADDR_/*",
            "offset": "4096",
            "length": "16",
        },  # ends the process in ONNX Runtime
        {},
    ],
    ids=lambda external: external.get("location", "none"),
)
def test_no_other_file_is_read(tmp_path, monkeypatch, external, place):
    """ONNX Runtime would read it, relative to the working folder, and also from an address in memory."""
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path / "x")
    for path in (tmp_path / "secret", tmp_path / "x" / "inside"):
        np.arange(4, dtype=np.float32).tofile(path)
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in external.items():
        tensor.external_data.add(key=key, value=value.replace("{folder}", str(tmp_path)))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    add, constant = (
        helper.make_node("Add", ["x", "w"], ["y"]),
        helper.make_node("Constant", [], ["w"], value=tensor),
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("own", 1)]
    functions = []
    if place == "function":
        functions = [helper.make_function("own", "F", ["x"], ["y"], [constant, add], opsets[:1])]
        add = helper.make_node("F", ["x"], ["y"], domain="own")
    graph = helper.make_graph(
        [constant, add] if place == "attribute" else [add],
        "g",
        [x],
        [y],
        [tensor] if place == "initializer" else [],
    )
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions)
    (tmp_path / "x" / "x.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(
        PointDetError, match=r"x.onnx has a tensor in another file; save it in one file, or export"
    ):
        OnnxNetwork(tmp_path / "x" / "x.onnx")


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


def changed(nnp_file, path, **texts):
    """A copy of the .nnp file with other members: name without suffix -> function of the old content."""
    suffixes = {"network": "network.nntxt", "parameter": "parameter.h5", "more": "more.protobuf"}
    with zipfile.ZipFile(nnp_file) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        contents = {name: old.read(name) for name in old.namelist()}
        for name, change in texts.items():
            contents[suffixes[name]] = change(contents.get(suffixes[name], b""))
        for name, content in contents.items():
            new.writestr(name, content)
    path.with_suffix(".json").write_bytes(nnp_file.with_suffix(".json").read_bytes())


def external_parameters(content):
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        file.create_dataset("a/W", (4,), "f4", external=[("secret", 0, 16)])
    return out.getvalue()


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        # NNabla divides by it: the process would end with SIGFPE.
        ({"network": lambda text: text.replace(b"stride {\n        dim: 2", b"stride {\n        dim: 0")}, "stride of "),
        ({"network": lambda text: text.replace(b"group: 1", b"group: 0")}, "group of .* is not positive"),
        ({"network": lambda text: text.replace(b"dim: 64", b"dim: 99999999999")}, "image has an impossible shape"),
        ({"network": lambda text: text.replace(b'"ReLU"', b'"Nothing"')}, "x.nnp is not a network saved by PointDet"),
        ({"network": lambda text: text + b"network {"}, "x.nnp is not a network saved by PointDet"),
        ({"network": lambda text: text + b"\xff"}, "x.nnp is not a network saved by PointDet"),
        ({"network": lambda text: b"#" * (17 << 20)}, "network.nntxt has more than 16 MiB"),
        ({"parameter": external_parameters}, "the values of a/W of .*x.nnp are in other files"),
        ({"parameter": lambda content: content[:1000]}, "x.nnp is not a whole .h5 file"),
        ({"more": lambda content: b"x"}, "it has other members than network.nntxt, parameter.h5 and nnp_version.txt"),
    ],
)  # fmt: skip
def test_hostile_nnp(tmp_path, nnp_file, capfd, texts, reason):
    changed(nnp_file, tmp_path / "x.nnp", **texts)
    with pytest.raises(PointDetError, match=reason):
        NnpNetwork(tmp_path / "x.nnp")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("class_names", value) for value in (None, [1], [], "cat")),
        *(("colour", value) for value in (None, [[1, 2, 3]], [[1, 2, 3, "4"]] * 3, [[1e300] * 4] * 3)),
        *(("contents", value) for value in ("other", None, [])),
        *(("precision", "text"), ("heatmaps", 3), ("input", None), ("input", {}), ("config", [])),
    ],
)
def test_metadata_of_another_kind(tmp_path, nnp_file, key, value):
    fields = json.loads(nnp_file.with_suffix(".json").read_text())
    path = tmp_path / "x.json"
    for text in (
        json.dumps(fields | {key: value}),
        json.dumps({k: v for k, v in fields.items() if k != key}),
    ):
        path.write_text(text)
        with pytest.raises(
            PointDetError, match=f"x.json: '{key}.* of the metadata is missing or of another kind"
        ):
            read_metadata(tmp_path / "x.nnp")


def test_metadata_that_are_nested_too_deeply(tmp_path, nnp_file):
    (tmp_path / "x.json").write_text("[" * 100_000)
    with pytest.raises(PointDetError, match="the metadata of .*x.json are not whole JSON"):
        read_metadata(tmp_path / "x.nnp")


def test_onnx_metadata_that_are_not_json(tmp_path):
    path = tmp_path / "x.onnx"
    write_foreign_onnx(path)
    model = onnx.load(path)
    for text, message in (
        ("{", "metadata of .*x.onnx are not whole JSON"),
        ("[1]", "x.onnx was not saved by PointDet"),
    ):
        helper.set_model_props(model, {"pointdet": text})
        onnx.save(model, path)
        with pytest.raises(PointDetError, match=message):
            OnnxNetwork(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "the metadata of .*x.json are not whole JSON"),
        (b"[]", "x.json was not saved by PointDet"),
        (b"\xff", "x.json, are not UTF-8"),
        (b'{"format": 1}', "'config' of the metadata is missing"),
    ],
)
def test_broken_metadata_are_one_sentence(tmp_path, content, message):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(PointDetError, match=message) as raised:
        read_metadata(tmp_path / "x.nnp")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("key", "value"), [("class_names", ["one"]), ("heatmaps", ["heatmap", "centre_heatmap"])]
)
def test_metadata_of_another_network(tmp_path, nnp_file, key, value):
    (tmp_path / "x.nnp").write_bytes(nnp_file.read_bytes())
    fields = json.loads(nnp_file.with_suffix(".json").read_text())
    (tmp_path / "x.json").write_text(json.dumps(fields | {key: value}))
    with pytest.raises(
        PointDetError, match="x.nnp has no output '.*heatmap' of . classes, which its metadata"
    ):
        NnpNetwork(tmp_path / "x.nnp")
