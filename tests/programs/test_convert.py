# SPDX-License-Identifier: Apache-2.0
"""convert_weights.py: published files to checkpoints and back, and other layouts of parameter files."""

import subprocess
import sys
from pathlib import Path

import h5py
import networks
import numpy as np
import pytest
import tiny
import torch_writer

from pointdet.weights import checkpoint, fit, h5_file, plain_file

PROGRAM = Path(__file__).parents[2] / "src" / "convert_weights.py"


def run(*arguments):
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_a_published_file_and_back(golden, tmp_path):
    """`x.pth` -> checkpoint -> the official keys. The checkpoint contains configuration and class names."""
    official = networks.published(golden("networks.json")["res18"], "A")
    file = torch_writer.File("zip")
    state = {f"module.{key}": file.tensor(array) for key, array in official.items()}
    (tmp_path / "x.pth").write_bytes(file.written({"epoch": 140, "state_dict": state}))
    imported = run(tmp_path / "x.pth", tmp_path / "checkpoint", "--set", "test.flip=true")
    assert (imported.returncode, imported.stderr) == (0, "")
    lines = imported.stdout.splitlines()
    assumed = [line for line in lines if line.startswith("  assumed ")]
    assert assumed == lines[1:7] and assumed[0].split("  ")[-1].strip() == "--classes FILE"
    assert [line for line in lines if line not in assumed] == [
        f"{tmp_path / 'x.pth'}: official CenterNet, resnet 18, 80 classes",
        f"  kept        {len(official)} parameters",
        f"{tmp_path / 'checkpoint'}: checkpoint of ctdet, for --checkpoint {tmp_path / 'checkpoint'}",
    ]
    state = checkpoint.read_state(tmp_path / "checkpoint")
    assert state["config"]["test"]["flip"] and state["class_names"][79] == "toothbrush"
    exported = run(tmp_path / "checkpoint", tmp_path / "x.safetensors")
    assert (exported.returncode, exported.stderr) == (0, "")
    found = plain_file.read(tmp_path / "x.safetensors")
    assert set(found) == set(official)
    for key, array in official.items():
        np.testing.assert_array_equal(found[key], array)


def test_errors_are_one_line_and_status_2(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"<html>")
    result = run(tmp_path / "x.pth", tmp_path / "checkpoint")
    assert result.returncode == 2 and "is a web page, not a weight file" in result.stderr
    assert result.stderr.count("\n") == 1 and not (tmp_path / "checkpoint").exists()
    result = run(tmp_path / "x.pth", tmp_path / "checkpoint", "--layout", "nhwc")
    assert result.returncode == 2 and "give" in result.stderr and "the suffix .h5" in result.stderr


@pytest.fixture
def source(tmp_path):
    """A parameter file in NCHW with 3 input channels."""
    model = tiny.model(tiny.config(tiny.draw(tmp_path / "data"), "model.arch=dlav0", "model.num_layers=34"))
    path = tmp_path / "source.h5"
    h5_file.write(path, {name: (v.d, v.need_grad) for name, v in model.detector.parameters().items()})
    return path


def test_the_other_layout_and_back(source, tmp_path):
    there = run(source, tmp_path / "a/there.h5", "--layout", "nhwc", "--input_channels", 4)
    assert there.returncode == 0 and there.stderr == ""
    before, last = h5_file.read(source), h5_file.read(tmp_path / "a/there.h5")
    assert there.stdout == f"{tmp_path / 'a/there.h5'}: {len(before)} parameters, NCHW -> NHWC\n"
    assert list(last) == list(before) and fit.is_channel_last(last)
    assert last["conv1/conv/W"].shape == (before["conv1/conv/W"].shape[0], 7, 7, 4)
    assert not last["conv1/conv/W"][..., 3].any()
    np.testing.assert_array_equal(
        last["up2_c/up/deconv/W"], before["up2_c/up/deconv/W"].transpose(0, 2, 3, 1)
    )
    back = run(tmp_path / "a/there.h5", tmp_path / "back.h5", "--layout", "nchw", "--input_channels", 3)
    assert back.returncode == 0
    after = h5_file.read(tmp_path / "back.h5")
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)
    with h5py.File(source) as one, h5py.File(tmp_path / "back.h5") as other:
        for name in before:
            assert dict(one[name].attrs) == dict(other[name].attrs)


def test_the_shapes_are_those_of_a_network_in_that_layout(source, tmp_path):
    run(source, tmp_path / "last.h5", "--layout", "nhwc", "--input_channels", 4)
    precision = ("mixed_precision.channel_last=true", "mixed_precision.mixed_precision=true")
    settings = ("model.arch=dlav0", "model.num_layers=34", *precision)
    model = tiny.model(tiny.config(tiny.draw(tmp_path / "other"), *settings))
    arrays = h5_file.read(tmp_path / "last.h5")
    assert {name: v.shape for name, v in model.detector.parameters().items()} == {
        name: array.shape for name, array in arrays.items()
    }


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda path: path.unlink(), "there is no parameter file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-50]), "is not a whole .h5 file"),
    ],
)
def test_a_missing_or_damaged_file_is_an_error(source, tmp_path, change, sentence):
    change(source)
    result = run(source, tmp_path / "out.h5", "--layout", "nhwc")
    assert result.returncode == 2 and sentence in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "out.h5").exists()


def test_the_output_must_not_exist(source):
    before = source.read_bytes()
    result = run(source, source, "--layout", "nhwc")
    assert result.returncode == 2 and "exists; give another name or remove it" in result.stderr
    assert source.read_bytes() == before
