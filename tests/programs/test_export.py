# SPDX-License-Identifier: Apache-2.0
"""save_nnp.py writes only networks that are those of their checkpoints, and replaces only its own files."""

import json

import numpy as np
import onnx
import pytest
import tiny
from onnx import helper

from pointdet.errors import PointDetError
from pointdet.export import nnp
from pointdet.model.exported import NnpNetwork, OnnxNetwork
from pointdet.programs import export
from pointdet.weights import h5_file


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.draw(tmp_path_factory.mktemp("data"), train=3, val=3)


@pytest.fixture(scope="module")
def best(tmp_path_factory, data):
    model = tiny.model(tiny.config(data, tiny.VALIDATION))
    return tiny.write_checkpoint(tmp_path_factory.mktemp("run") / "best", model)


@pytest.fixture
def overflowing(tmp_path, best):
    """A checkpoint whose maps overflow in half precision: a large and a small normalisation in a row."""
    arrays = h5_file.read(best / "parameters.h5")
    arrays["conv1/bn/gamma"] *= 1e6
    arrays["conv1/bn/beta"] *= 1e6
    arrays["res1/layer1/basicblock1/conv/W"] *= 1e-6
    folder = tmp_path / "overflowing"
    folder.mkdir()
    (folder / "state.json").write_bytes((best / "state.json").read_bytes())
    h5_file.write(folder / "parameters.h5", {name: (array, True) for name, array in arrays.items()})
    return folder


def main(*arguments):
    return export.main([str(argument) for argument in arguments])


def test_half_precision_that_overflows_is_not_written(tmp_path, overflowing, capsys):
    path = tmp_path / "out" / "x.onnx"
    flags = ("--checkpoint", overflowing, "--format", "onnx", "--output", path)
    assert main(*flags) == 0  # in float32
    before = path.read_bytes()
    words = "x.onnx is not written: its output .* (NaN or infinite|differs by).*; export it with --precision float"
    with pytest.raises(PointDetError, match=words):
        main(*flags, "--precision", "half")
    assert path.read_bytes() == before and [file.name for file in path.parent.iterdir()] == ["x.onnx"]
    capsys.readouterr()
    assert main(*flags, "--precision", "half", "--force") == 0
    assert "warning: its output" in capsys.readouterr().out
    assert OnnxNetwork(path).metadata.precision == "half"


def test_an_nnp_that_differs_is_not_written(tmp_path, best, monkeypatch):
    monkeypatch.setattr(export, "noise", lambda args, model: np.zeros((1, 64, 64, 3), np.uint8))
    monkeypatch.setattr(NnpNetwork, "_forward", lambda self, inputs: _ones(self, inputs))
    with pytest.raises(
        PointDetError, match="x.nnp is not written: its output .* differs by .* or write it anyway"
    ):
        main("--checkpoint", best, "--output", tmp_path / "x.nnp")
    assert not list(tmp_path.iterdir())


def _ones(network, inputs):
    return {name: np.ones((len(inputs), *v.shape[1:]), np.float32) for name, v in network._outputs.items()}


@pytest.mark.parametrize("content", ['{"images": []}', "[]", "{", "", '{"format": 1}'])
def test_the_json_file_of_another_program_is_not_replaced(tmp_path, best, content):
    (tmp_path / "instances.json").write_text(content)
    with pytest.raises(
        PointDetError, match="instances.json exists and was not written by an export of PointDet"
    ):
        main("--checkpoint", best, "--output", tmp_path / "instances.nnp")
    assert (tmp_path / "instances.json").read_text() == content
    assert [file.name for file in tmp_path.iterdir()] == ["instances.json"]


def write_other_onnx(path):
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "pointdet", [value], [out])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.mark.parametrize("name", ["x.nnp", "x.onnx"])
def test_the_network_of_another_program_is_not_replaced(tmp_path, best, name):
    path = tmp_path / name
    write_other_onnx(path)
    before = path.read_bytes()
    with pytest.raises(PointDetError, match=f"{name} exists and was not written by an export of PointDet"):
        main("--checkpoint", best, "--format", path.suffix[1:], "--output", path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("format", ["nnp", "onnx"])
def test_its_own_files_are_replaced(tmp_path, best, format):
    flags = ("--checkpoint", best, "--format", format, "--output", tmp_path / f"x.{format}")
    assert main(*flags) == main(*flags, "--input_h", 96) == 0
    names = {"nnp": ["x.json", "x.nnp"], "onnx": ["x.onnx"]}[format]
    assert sorted(file.name for file in tmp_path.iterdir()) == names


def test_the_metadata_are_written_last(tmp_path, best, monkeypatch):
    """A network whose export was interrupted has no metadata, not those of the previous one."""
    flags = ("--checkpoint", best, "--output", tmp_path / "x.nnp")
    main(*flags)

    def interrupted(path, text):
        raise KeyboardInterrupt

    monkeypatch.setattr(nnp, "write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(*flags, "--input_h", 96)
    assert [file.name for file in tmp_path.iterdir()] == ["x.nnp"]
    with pytest.raises(PointDetError, match="x.nnp needs x.json"):
        NnpNetwork(tmp_path / "x.nnp")


@pytest.mark.parametrize("suffix", ["nnp", "onnx"])
def test_an_exported_network_is_refused_at_once(tmp_path, best, capsys, suffix):
    main("--checkpoint", best, "--format", suffix, "--output", tmp_path / f"x.{suffix}")
    capsys.readouterr()
    with pytest.raises(
        PointDetError, match=rf"x.{suffix} is an exported network .* checkpoint it was exported from"
    ):
        main("--checkpoint", tmp_path / f"x.{suffix}")
    assert capsys.readouterr().out == ""


def test_the_help_offers_no_exported_network(capsys):
    with pytest.raises(SystemExit):
        main("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert "checkpoint folder or .h5 file" in shown and ".onnx or .nnp file --" not in shown


def test_int8_reports_errors_and_ap(tmp_path, best, data, capsys):
    flags = ("--format", "onnx", "--precision", "int8", "--calibrate", data / "train")
    assert main("--checkpoint", best, *flags, "--data_dir", data, "--output", tmp_path / "x.onnx") == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"calibrated on 3 images of {data / 'train'}" in lines
    assert {line.split()[0] for line in lines if ", bound " in line} == {"heatmap", "size", "offset"}
    assert lines[-1].startswith("AP ") and lines[-1].endswith(" with int8, 3 images") and "->" in lines[-1]
    assert json.loads(onnx.load(tmp_path / "x.onnx").metadata_props[0].value)["precision"] == "int8"


def test_int8_without_data_has_no_ap(tmp_path, best, data, capsys):
    flags = ("--format", "onnx", "--precision", "int8", "--calibrate", data / "train")
    assert main("--checkpoint", best, *flags, "--output", tmp_path / "x.onnx") == 0
    assert not [line for line in capsys.readouterr().out.splitlines() if line.startswith("AP ")]


def test_ap_of_peaks_with_a_flip_test_is_refused_before_the_calibration(tmp_path, best, data, capsys):
    flags = (
        "--format",
        "onnx",
        "--precision",
        "int8",
        "--calibrate",
        data / "train",
        "--contents",
        "pipeline",
    )
    with pytest.raises(PointDetError, match="outputs peaks, which cannot be averaged"):
        main(
            *("--checkpoint", best, *flags, "--data_dir", data, "--output", tmp_path / "x.onnx"),
            *("--set", "test.flip=true"),
        )
    assert "calibrated" not in capsys.readouterr().out
