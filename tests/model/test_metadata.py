# SPDX-License-Identifier: Apache-2.0
"""The metadata of exported networks: what the file contains, allowed overrides, and input sizes."""

import json

import numpy as np
import onnx
import pytest
import tiny

from pointdet.errors import PointDetError
from pointdet.export.onnx import convert, write
from pointdet.model.exported import OnnxNetwork
from pointdet.model.restore import restore
from pointdet.runtime import start


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.draw(tmp_path_factory.mktemp("data"), train=1, val=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data):
    """A folder with two exports of one model: best.onnx, and peaks.onnx with contents "pipeline"."""
    path = tmp_path_factory.mktemp("exported")
    model = tiny.model(tiny.config(data))
    write(convert(model), path / "best.onnx")
    write(convert(model, "pipeline"), path / "peaks.onnx")
    return path


def images(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


def network(model):
    return OnnxNetwork("x.onnx", convert(model).SerializeToString())


def test_onnx_file_contains_the_metadata(tmp_path, data):
    model = tiny.model(tiny.config(data, "test.vis_thresh=0.25"))
    write(convert(model), tmp_path / "folder" / "x.onnx")
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["x.onnx"]
    properties = onnx.load(tmp_path / "folder" / "x.onnx").metadata_props
    metadata = json.loads({entry.key: entry.value for entry in properties}["pointdet"])
    assert metadata["class_names"] == list(tiny.CLASS_NAMES) and metadata["threshold"] == 0.25
    assert metadata["input"] == {
        "height": 64,
        "width": 64,
        "sides_multiple_of": 32,
        "largest_side": None,
        "channel_order": "bgr",
    }
    assert OnnxNetwork(tmp_path / "folder" / "x.onnx").metadata.config == model.config


@pytest.mark.parametrize(
    "name, override, sentence",
    [
        ("best.onnx", "model.width=0.25", "model is part of .*best.onnx and cannot be changed"),
        ("best.onnx", "input.colour_order=rgb", "input.colour_order is part of .*best.onnx"),
        ("peaks.onnx", "test.flip=true", "peaks.onnx outputs peaks, which cannot be averaged"),
        (
            "peaks.onnx",
            "detector.nms_kernel=5",
            "were found with detector.nms_kernel=3, which cannot be changed",
        ),
    ],
)
def test_overrides_that_change_the_network_raise_an_error(folder, name, override, sentence):
    with pytest.raises(PointDetError, match=sentence):
        restore(folder / name, start(), overrides=[override])


def test_unsuitable_input_sizes_raise_an_error(data):
    ctdet = network(tiny.model(tiny.config(data)))
    with pytest.raises(
        PointDetError, match="the height of its input must be a multiple of 32 for resnet, not 65"
    ):
        ctdet(images(1, 65, 64))
    cornernet = network(tiny.model(tiny.config(data, "detector.name=cornernet")))
    assert cornernet.metadata.largest_side == 1024
    with pytest.raises(PointDetError, match="inputs of up to 1024 pixels, not 1056; .* larger --input_h"):
        cornernet(images(1, 64, 1056))
