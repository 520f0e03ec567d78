# SPDX-License-Identifier: Apache-2.0
"""Both engines have the same detections, from a checkpoint or an exported file; errors of other engines."""

import argparse
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny

from pointdet.errors import PointDetError
from pointdet.export import onnx
from pointdet.inference import engine
from pointdet.inference.predictor import Predictor
from pointdet.programs import flags
from pointdet.programs.from_flags import restore_model
from pointdet.runtime import start


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.draw(tmp_path_factory.mktemp("data"), train=2, val=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data):
    """A folder with the checkpoint "best" and its export best.onnx."""
    path = tmp_path_factory.mktemp("exported")
    model = tiny.model(tiny.config(data))
    tiny.write_checkpoint(path / "best", model)
    onnx.write(onnx.convert(model), path / "best.onnx")
    return path


def parsed(line):
    parser = argparse.ArgumentParser(prog="demo.py")
    flags.add_model_flags(parser)
    flags.add_test_flags(parser)
    return parser.parse_args(line.split())


def model(path, line="ctdet"):
    return restore_model(parsed(line), start(), path)


@pytest.mark.parametrize("settings", ["", "--test_flip --test_scales 0.5,1", "--keep_res"])
def test_engines_agree(folder, data, settings):
    image = np.ascontiguousarray(cv2.imread(str(min((data / "train").iterdir())))[:50])
    expected = Predictor.of(model(folder / "best", f"ctdet {settings}"))(image)
    assert len(expected) > 0
    for name, engine_flag in (("best.onnx", ""), ("best", "--engine onnxruntime")):
        restored = model(folder / name, f"ctdet {settings} {engine_flag}")
        assert not restored.detector.parameters() or name == "best"  # no graph was built
        found = Predictor.of(restored)(image)
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=1e-5)
        np.testing.assert_allclose(found.boxes, expected.boxes, rtol=0, atol=1e-2)


def test_predictor_on_both_engines(folder, data):
    image = cv2.imread(str(min((data / "train").iterdir())))
    expected = Predictor.from_checkpoint(folder / "best")
    for predictor in (
        Predictor.from_checkpoint(folder / "best.onnx"),
        Predictor.from_checkpoint(folder / "best", engine="onnxruntime"),
    ):
        assert predictor.class_names == tiny.CLASS_NAMES
        np.testing.assert_allclose(predictor(image).boxes, expected(image).boxes, rtol=0, atol=1e-2)
    with pytest.raises(PointDetError, match="unknown engine 'tensorrt'; use nnabla or onnxruntime"):
        Predictor.from_checkpoint(folder / "best", engine="tensorrt")


@pytest.mark.parametrize(
    "name, line, sentence",
    [
        ("best.onnx", "ctdet --engine nnabla", "best.onnx runs in onnxruntime, not in nnabla"),
        ("best.nnp", "ctdet --engine onnxruntime", "best.nnp runs in nnabla, not in onnxruntime"),
        ("best.onnx", "ctdet --gpus 0", "ONNX Runtime runs on the CPU here; leave --gpus"),
        ("best.onnx", "ctdet --extension_module cudnn", "ONNX Runtime runs on the CPU here"),
        ("best.onnx", "cornernet", "detector cornernet disagrees with .*best.onnx, which holds ctdet"),
    ],
)
def test_flags_that_do_not_fit_raise_an_error(folder, name, line, sentence):
    with pytest.raises(PointDetError, match=sentence):
        model(folder / name, line)


def test_engine_of_a_file():
    assert [engine.of(Path(p), None) for p in ("a.onnx", "a.nnp", "a.h5", "best")] == [
        "onnxruntime",
        "nnabla",
        "nnabla",
        "nnabla",
    ]
