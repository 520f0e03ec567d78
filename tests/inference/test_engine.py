# SPDX-License-Identifier: Apache-2.0
"""Either engine finds the same objects, from a checkpoint or from an exported file; what does not fit is said."""

import argparse
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny

from pointdet.config import flags
from pointdet.errors import PointDetError
from pointdet.export import onnx
from pointdet.inference import engine
from pointdet.inference.from_flags import restore_model
from pointdet.inference.predictor import Predictor
from pointdet.inference.restore import restore
from pointdet.runtime import start


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.draw(tmp_path_factory.mktemp("data"), train=2, val=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data):
    """best, a checkpoint; best.onnx; peaks.onnx, with the pipeline."""
    where = tmp_path_factory.mktemp("exported")
    model = tiny.model(tiny.config(data))
    tiny.write_checkpoint(where / "best", model)
    onnx.write(onnx.convert(model), where / "best.onnx")
    onnx.write(onnx.convert(model, "pipeline"), where / "peaks.onnx")
    return where


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


def test_in_python(folder, data):
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
        ("best.onnx", "ctdet --set model.width=0.25", "model is part of .*best.onnx and cannot be changed"),
        ("best.onnx", "ctdet --set input.colour_order=rgb", "input.colour_order is part of .*best.onnx"),
        ("peaks.onnx", "ctdet --test_flip", "peaks.onnx gives peaks, which cannot be averaged"),
    ],
)
def test_what_does_not_fit_is_said(folder, name, line, sentence):
    with pytest.raises(PointDetError, match=sentence):
        model(folder / name, line)


def test_what_was_exported_is_not_exported_again(folder):
    with pytest.raises(PointDetError, match="cannot be exported again; take the checkpoint"):
        onnx.convert(restore(folder / "best.onnx", start()))


def test_threads(monkeypatch):
    from pointdet.inference.exported import threads

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    assert threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads() == 2


def test_engine_of_a_file():
    assert [engine.of(Path(p), None) for p in ("a.onnx", "a.nnp", "a.h5", "best")] == [
        "onnxruntime",
        "nnabla",
        "nnabla",
        "nnabla",
    ]
