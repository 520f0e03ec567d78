# SPDX-License-Identifier: Apache-2.0
"""What a path is, by its content, and errors that say what takes it."""

import h5py
import numpy as np
import pytest
import tiny
import torch_writer

from pointdet.conversion.export_pytorch import export_pytorch
from pointdet.conversion.import_published import import_published
from pointdet.errors import PointDetError
from pointdet.export import nnp, onnx
from pointdet.model.restore import restore
from pointdet.programs import convert, test
from pointdet.runtime import start
from pointdet.training.initial_parameters import fresh, load_parameters
from pointdet.weights import h5_file, kind, plain_file, torch_file

NAMES = {
    "nothing": "no/such/path", "checkpoint": "run/checkpoints/best", "run": "run", "checkpoints": "run/checkpoints",
    "folder": "empty", "h5": "x.h5", "nnp": "x.nnp", "onnx": "x.onnx", "safetensors": "x.safetensors", "npz": "x.npz",
    "torch": "x.pth", "other": "x.txt",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A path of every kind."""
    folder = tmp_path_factory.mktemp("kinds")
    model = tiny.model(tiny.config(folder))
    best = tiny.write_checkpoint(folder / "run/checkpoints/best", model)
    (folder / "run/checkpoints/best").joinpath("parameters.h5").read_bytes()
    (folder / "empty").mkdir()
    arrays = tiny.parameters(model)
    h5_file.write(folder / "x.h5", {name: (array, True) for name, array in arrays.items()})
    nnp.write(model, folder / "x.nnp")
    onnx.write(onnx.convert(model), folder / "x.onnx")
    export_pytorch(best, folder / "x.safetensors")
    export_pytorch(best, folder / "x.npz")
    file = torch_writer.File("zip")
    (folder / "x.pth").write_bytes(file.written({"a": file.tensor(np.zeros(3, np.float32))}))
    (folder / "x.txt").write_text("text")
    return folder


@pytest.mark.parametrize("expected", NAMES)
def test_kinds(folder, expected):
    assert kind.of(folder / NAMES[expected]) == expected


def test_the_content_decides_and_not_the_suffix(folder, tmp_path):
    for name in ("h5", "nnp", "safetensors", "npz", "torch"):
        (tmp_path / "x.bin").write_bytes((folder / NAMES[name]).read_bytes())
        assert kind.of(tmp_path / "x.bin") == name
    file = torch_writer.File("legacy")
    (tmp_path / "x.bin").write_bytes(file.written({"a": file.tensor(np.zeros(3, np.float32))}))
    assert kind.of(tmp_path / "x.bin") == "torch"


CONVERT = "convert_weights.py .* FOLDER makes a checkpoint of it"
IS = {  # what is said of a path that a program does not take
    "nothing": "there is no .*no/such/path; give a checkpoint folder",
    "run": "is the folder of a run, not a checkpoint; give .*run/checkpoints/best$",
    "checkpoints": "is a folder of checkpoints; give one of them: best$",
    "folder": "is no checkpoint, it has no state.json",
    "nnp": "is an exported network .*; test.py and demo.py take it",
    "onnx": "is an exported network .*; test.py and demo.py take it",
    "safetensors": f"is a safetensors file; {CONVERT}",
    "npz": f"is an .npz file; {CONVERT}",
    "torch": f"is a weight file of torch; {CONVERT}",
    "other": "is not a checkpoint folder",
}


@pytest.mark.parametrize("wrong", [name for name in IS if name not in ("nnp", "onnx")])
def test_what_restore_does_not_take(folder, wrong):
    with pytest.raises(PointDetError, match=IS[wrong]):
        restore(folder / NAMES[wrong], start())


@pytest.mark.parametrize("wrong", IS)
def test_what_fine_tuning_does_not_take(folder, wrong):
    model = fresh(tiny.config(folder), tiny.CLASS_NAMES, start())
    with pytest.raises(PointDetError, match=IS[wrong]):
        load_parameters(folder / NAMES[wrong], model)


@pytest.mark.parametrize("wrong", IS)
def test_what_testing_does_not_take(folder, capsys, wrong):
    """Also before the device starts, and without a word about --train-config."""
    if wrong in ("nnp", "onnx"):
        return
    with pytest.raises(PointDetError, match=IS[wrong]):
        test.main(["--checkpoint", str(folder / NAMES[wrong])])
    assert capsys.readouterr().out == ""


def test_a_part_of_a_checkpoint_without_settings(folder):
    with pytest.raises(
        PointDetError, match="parameters.h5 is a part of the checkpoint .*best, .*give that folder"
    ):
        test.main(["--checkpoint", str(folder / "run/checkpoints/best/parameters.h5")])


@pytest.mark.parametrize("wrong", ["nnp", "safetensors", "npz", "torch", "checkpoint", "run"])
def test_what_is_no_parameter_file(folder, wrong):
    path = folder / NAMES[wrong]
    with pytest.raises(PointDetError, match=IS.get(wrong, "is a checkpoint folder; main.py")):
        h5_file.read(path)


@pytest.mark.parametrize(
    ("wrong", "output", "words"),
    [
        ("nothing", "y", "there is no .*path; give a weight file of torch, an .h5 parameter file,"),
        ("checkpoint", "y", "is a checkpoint folder; main.py, test.py, demo.py and save_nnp.py take it with"),
        ("run", "y", "is the folder of a run, not a checkpoint; give .*best$"),
        ("onnx", "y", "is an exported network"),
        ("run", "y.safetensors", "is the folder of a run, not a checkpoint; give .*best$"),
        ("h5", "y.safetensors", "is an .h5 parameter file; .* FOLDER makes a checkpoint of it"),
        ("torch", "y.npz", CONVERT),
        ("safetensors", "y.h5", CONVERT),
        ("checkpoint", "y.h5", "is a checkpoint folder"),
    ],
)
def test_what_the_converter_does_not_take(folder, tmp_path, wrong, output, words):
    with pytest.raises(PointDetError, match=words):
        convert.main([str(folder / NAMES[wrong]), str(tmp_path / output)])
    assert not list(tmp_path.iterdir())


def test_weights_with_another_suffix_are_imported(folder, tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes((folder / "x.safetensors").read_bytes())
    assert import_published(path).system.title == "PointDet"


def integers(path):
    array = np.arange(36, dtype=np.int8).reshape(2, 2, 3, 3)
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("a/conv/W", data=array)
        return h5_file.read
    if path.suffix == ".pth":
        file = torch_writer.File("zip")
        path.write_bytes(file.written({"a/conv/W": file.tensor(array)}))
        return torch_file.read
    plain_file.write(path, {"a/conv/W": array}, {})
    return plain_file.read


@pytest.mark.parametrize("suffix", [".h5", ".pth", ".safetensors", ".npz"])
def test_kernels_of_integers(tmp_path, suffix):
    read = integers(tmp_path / f"x{suffix}")
    with pytest.raises(
        PointDetError, match=f"^a/conv/W of .*x{suffix} consists of integers .*; give the file with"
    ):
        read(tmp_path / f"x{suffix}")
