# SPDX-License-Identifier: Apache-2.0
"""The programs of docs/deployment.md run without PointDet and have the same detections."""

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny

from pointdet.export import nnp, onnx
from pointdet.inference.predictor import Predictor

TEXT = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    """A folder with image.jpg, and a model some of whose scores are above the threshold."""
    data = tiny.draw(tmp_path / "data", train=1, val=1)
    model = tiny.model(tiny.config(data, "test.vis_thresh=0.1"))
    image = cv2.imread(str(next((data / "train").iterdir())))
    cv2.imwrite(str(tmp_path / "image.jpg"), image[:48])
    return tmp_path, model


def test_onnx_without_pointdet(folder):
    path, model = folder
    onnx.write(onnx.convert(model), path / "detector.onnx")
    (program,) = re.findall(r"```python\n(import json\n.*?)```", TEXT, re.DOTALL)
    (path / "program.py").write_text(
        program + "\nimport sys\nassert not {'nnabla', 'pointdet'} & set(sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "program.py"], check=False, cwd=path, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    rows = [line.rsplit(" ", 5) for line in result.stdout.splitlines()]
    printed = {(name, *map(float, numbers)) for name, *numbers in rows}
    found = Predictor.of(model)(cv2.imread(str(path / "image.jpg")))
    found = found[found.scores >= 0.1 + 1e-4]
    assert 0 < len(found) < 100
    for box, label, score in zip(found.boxes, found.labels, found.scores, strict=True):
        expected = (score, *box)
        assert any(
            name == tiny.CLASS_NAMES[label] and np.allclose(numbers, expected, rtol=0, atol=0.02)
            for name, *numbers in printed
        )


def test_nnabla_cli(folder):
    path, model = folder
    nnp.write(model, path / "detector.nnp")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    pixels.tofile(path / "image.bin")
    (command,) = re.findall(r"^nnabla_cli infer .*$", TEXT, re.MULTILINE)
    program = Path(sys.executable).with_name("nnabla_cli")
    subprocess.run([program, *command.split()[1:]], check=True, cwd=path, capture_output=True, timeout=120)
    written = np.fromfile(path / "maps_0.bin", np.float32)
    expected = np.concatenate([array.ravel() for array in model.network()(pixels).values()])
    np.testing.assert_allclose(written, expected, rtol=0, atol=1e-5)

    np.save(path / "image.npy", pixels[0])
    (path / "images.csv").write_text("image\nimage.npy\n")
    (path / "planes").mkdir()
    (command,) = re.findall(r"^nnabla_cli forward .*$", TEXT, re.MULTILINE)
    subprocess.run([program, *command.split()[1:]], check=True, cwd=path, capture_output=True, timeout=120)
    assert len(list((path / "planes").rglob("*.png"))) == len(tiny.CLASS_NAMES) + 2 + 2
