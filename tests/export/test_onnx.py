# SPDX-License-Identifier: Apache-2.0
"""The export to ONNX: single functions, folded normalisation, precision, contents, and errors."""

import importlib
import sys
from collections import Counter

import nnabla as nn
import nnabla.functions as F
import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
from onnx import TensorProto, helper

from pointdet.errors import PointDetError
from pointdet.export.nodes import Nodes
from pointdet.export.onnx import OPSET, convert, emit, write
from pointdet.export.quantised import int8
from pointdet.model.exported import OnnxNetwork
from pointdet.model.restore import restore
from pointdet.ops.mode import Mode
from pointdet.ops.pooling import corner_pool
from pointdet.ops.upsampling import upsample_bilinear, upsample_nearest
from pointdet.runtime import start

INFERENCE = Mode(training=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.draw(tmp_path_factory.mktemp("data"), train=3, val=1)


def images(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


def network(model, **settings):
    return OnnxNetwork("x.onnx", convert(model, **settings).SerializeToString())


def emitted(function, channels=6):
    """`function`, converted to ONNX and run by ONNX Runtime, for x of any batch size and any image size."""
    x = nn.Variable((1, channels, 32, 32))
    y = function(x)
    functions = []
    y.visit(functions.append)
    nodes = Nodes(functions)
    nodes.bind(x, "x")
    emit(nodes, functions)
    source, result = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", nodes.name_of(y))
    )
    graph = helper.make_graph(nodes.nodes, "x", [source], [result], nodes.initializers())
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return lambda array: session.run(None, {"x": array})[0]


def norm(x):
    rng = np.random.default_rng(1)
    parts = [rng.random((1, x.shape[1], 1, 1)).astype(np.float32) for _ in range(4)]
    parameters = [nn.Variable.from_numpy_array(part) for part in parts]
    return F.batch_normalization(x, *parameters, axes=[1], eps=1e-5, batch_stat=False)


def depthwise_then_norm(x):
    w = nn.Variable.from_numpy_array(np.random.default_rng(2).random((x.shape[1], 1, 4, 4)))
    return norm(F.deconvolution(x, w, pad=(1, 1), stride=(2, 2), group=x.shape[1]))


def convolution_read_twice(x):
    w = nn.Variable.from_numpy_array(np.random.default_rng(2).standard_normal((4, x.shape[1], 3, 3)))
    h = F.convolution(x, w, pad=(1, 1))
    return h + norm(h)


@pytest.mark.parametrize(
    "function",
    [
        norm,
        depthwise_then_norm,
        convolution_read_twice,
        lambda x: F.broadcast(F.max(x, axis=2, keepdims=True), x.shape),
        lambda x: upsample_bilinear(upsample_nearest(x, 2, INFERENCE), 4, INFERENCE),
        *(lambda x, d=d: corner_pool(x, d, INFERENCE) for d in ("top", "bottom", "left", "right")),
    ],
    ids=["norm", "depthwise", "read twice", "line pool", "upsampling", "top", "bottom", "left", "right"],
)
@pytest.mark.parametrize("shape", [(2, 6, 5, 7), (1, 6, 32, 2)])
def test_a_single_function(function, shape):
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    x = nn.Variable.from_numpy_array(array)
    expected = function(x)
    expected.forward()
    np.testing.assert_allclose(emitted(function)(array), expected.d, rtol=0, atol=1e-5)


def test_functions_that_cannot_be_exported_are_named():
    with pytest.raises(PointDetError, match="NNabla's function Erf cannot be exported to ONNX"):
        emitted(F.erf)
    with pytest.raises(PointDetError, match=r"a slice of \(1, 6, 32, 32\) along \[2\]"):
        emitted(lambda x: F.slice(x, start=(0, 0, 4, 0), stop=(1, 6, 32, 32)))
    with pytest.raises(PointDetError, match=r"a broadcast of \(1, 1, 32, 32\)"):
        emitted(lambda x: F.broadcast(F.relu(x), (1, 3, 32, 32)), channels=1)


def test_normalisation_is_folded_into_convolutions(data):
    """Batch normalisation is; the normalisation of colours is a convolution before the first one."""
    model = tiny.model(tiny.config(data))
    kinds = Counter(node.op_type for node in convert(model).graph.node)
    own = Counter(name.rpartition("/")[2] for name in model.detector.parameters())
    assert (
        kinds["Conv"] + kinds["ConvTranspose"] == 1 + own["W"] - 2
    )  # the first convolutions of the three heads are joined
    assert not {"BatchNormalization", "Mul"} & set(kinds)


@pytest.mark.parametrize(
    "overrides",
    [
        ("mixed_precision.channel_last=true",),
        ("mixed_precision.mixed_precision=true", "input.colour_order=rgb"),
    ],
    ids=["NHWC", "four channels, RGB"],
)
def test_layout_and_colour(data, overrides):
    model, pixels = tiny.model(tiny.config(data, *overrides)), images(2, 64, 64)
    expected = model.network()(pixels)
    for contents in ("maps", "network"):
        found = network(model, contents=contents)(pixels)
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5)


def test_the_pipeline_outputs_peaks(data):
    model, pixels = tiny.model(tiny.config(data)), images(1, 64, 64)
    expected, found = model.network()(pixels), network(model, contents="pipeline")(pixels)
    is_peak = found["heatmap"] > 0
    assert 0.02 < is_peak.mean() < 0.25
    np.testing.assert_allclose(found["heatmap"][is_peak], expected["heatmap"][is_peak], atol=1e-6)
    codec = model.detector.codec
    of_peaks, of_maps = (codec.decode({k: v[0] for k, v in maps.items()}, 20) for maps in (found, expected))
    np.testing.assert_array_equal(of_peaks.labels, of_maps.labels)
    np.testing.assert_allclose(of_peaks.boxes, of_maps.boxes, atol=1e-3)


@pytest.mark.parametrize("arch", ["resnet", "resdcn"])
def test_half_and_int8(data, arch):
    model, pixels = tiny.model(tiny.config(data, f"model.arch={arch}")), images(1, 64, 64)
    expected, single = model.network()(pixels), convert(model)
    before = single.SerializeToString(deterministic=True)
    half = convert(model, half=True)
    onnx.checker.check_model(half, full_check=True)
    assert len(half.SerializeToString()) < 0.6 * len(single.SerializeToString())
    for exported, precision, tolerance in ((half, "half", 2e-3), (int8(single, [pixels]), "int8", 3e-2)):
        found = OnnxNetwork("x.onnx", exported.SerializeToString())
        assert found.metadata.precision == precision
        for name, array in found(pixels).items():
            assert array.dtype == np.float32
            assert 0 < np.abs(array - expected[name]).max() < tolerance * np.abs(expected[name]).max()
    assert single.SerializeToString(deterministic=True) == before


def test_missing_onnx(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "pointdet.export.onnx")
    with pytest.raises(PointDetError, match="ONNX is not installed; pip install -r requirements-onnx.txt"):
        importlib.import_module("pointdet.export.onnx")


def test_exported_networks_cannot_be_exported_again(tmp_path, data):
    write(convert(tiny.model(tiny.config(data))), tmp_path / "x.onnx")
    with pytest.raises(PointDetError, match="cannot be exported again; use the checkpoint"):
        convert(restore(tmp_path / "x.onnx", start()))


def test_a_path_that_cannot_be_written_raises_an_error(tmp_path, data):
    (tmp_path / "file").write_text("")
    with pytest.raises(PointDetError, match=r"cannot write .*file/x.onnx \(.*\); .*choose another place"):
        write(convert(tiny.model(tiny.config(data))), tmp_path / "file" / "x.onnx")
