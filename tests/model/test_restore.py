# SPDX-License-Identifier: Apache-2.0
"""Loading checkpoint folders and parameter files: the same maps as before, and errors of unsuitable files."""

import numpy as np
import pytest
import tiny

from pointdet.errors import PointDetError
from pointdet.model.restore import restore
from pointdet.runtime import start
from pointdet.weights import h5_file
from pointdet.weights.published import with_swapped_heads

IMAGES = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)


@pytest.fixture
def config(tmp_path):
    return tiny.config(tmp_path)


@pytest.fixture
def model(config):
    """A model whose size head outputs sizes of several cells, as after training."""
    created = tiny.model(config)
    created.detector.parameters()["wh_final/conv/b"].d = np.float32([6, 9])
    return created


@pytest.fixture
def checkpoint(tmp_path, model):
    return tiny.write_checkpoint(tmp_path / "best", model)


def write_h5(path, arrays):
    h5_file.write(path, {name: (array, True) for name, array in arrays.items()})
    return path


def assert_same_maps(one, other, tolerance=1e-6):
    maps, expected = one.network()(IMAGES), other.network()(IMAGES)
    assert set(maps) == {"heatmap", "size", "offset"}
    for name, array in expected.items():
        np.testing.assert_allclose(maps[name], array, rtol=0, atol=tolerance * np.abs(array).max())


def test_a_checkpoint_contains_its_configuration(checkpoint, model):
    restored = restore(checkpoint, start())
    assert restored.class_names == tiny.CLASS_NAMES
    assert restored.config == model.config
    assert_same_maps(restored, model)


def test_overrides(checkpoint, model):
    """The layout and the test settings may be changed, the shapes of parameters may not."""
    restored = restore(checkpoint, start(), overrides=["mixed_precision.channel_last=true", "test.flip=true"])
    assert restored.detector.channel_last and restored.config.test.flip
    assert_same_maps(restored, model, 1e-5)
    with pytest.raises(PointDetError, match="does not fit this network in .* parameters"):
        restore(checkpoint, start(), overrides=["model.width=0.25"])
    with pytest.raises(PointDetError, match="unknown key test.filp; did you mean flip"):
        restore(checkpoint, start(), overrides=["test.filp=true"])


def test_a_parameter_file_needs_a_configuration(tmp_path, config, model):
    path = write_h5(tmp_path / "x.h5", tiny.parameters(model))
    with pytest.raises(
        PointDetError, match="x.h5 contains parameters only and no configuration; add --dataset"
    ):
        restore(path, start())
    with pytest.raises(PointDetError, match="x.h5 contains no class names; list them as dataset.class_names"):
        restore(path, start(), config)
    with_names = tiny.config(tmp_path, f"dataset.class_names=[{', '.join(tiny.CLASS_NAMES)}]")
    restored = restore(path, start(), with_names)
    assert restored.class_names == tiny.CLASS_NAMES
    assert_same_maps(restored, model)
    few = tiny.config(tmp_path, "dataset.class_names=[cat, dog]")
    with pytest.raises(PointDetError, match="x.h5 was trained for 4 classes, but 2 are requested"):
        restore(path, start(), few)


def test_several_stacks(tmp_path):
    """Only the heads of the last stack are restored, and the number of classes is checked against them."""
    settings = ("arch=hourglass", "num_layers=104", "hourglass_levels=2", "width=0.0625")
    model = tiny.model(tiny.config(tmp_path, *(f"model.{setting}" for setting in settings)))
    restored = restore(tiny.write_checkpoint(tmp_path / "best", model), start())
    assert_same_maps(restored, model)
    assert set(model.detector.parameters()) - set(restored.detector.parameters()) == {
        f"stack1/{head}_{part}/conv/{leaf}"
        for head in ("hm", "reg", "wh")
        for part in ("conv1", "final")
        for leaf in "Wb"
    }
    path = write_h5(tmp_path / "x.h5", tiny.parameters(model))
    few = tiny.config(tmp_path, "dataset.class_names=[cat]", *(f"model.{setting}" for setting in settings))
    with pytest.raises(PointDetError, match="x.h5 was trained for 4 classes, but 1 are requested"):
        restore(path, start(), few)


def test_exchanged_heads(tmp_path, model):
    config = tiny.config(tmp_path, f"dataset.class_names=[{', '.join(tiny.CLASS_NAMES)}]")
    path = write_h5(tmp_path / "old.h5", with_swapped_heads(tiny.parameters(model)))
    with pytest.raises(
        PointDetError, match="old.h5 seem to be exchanged, .* --swap_heads yes .* --swap_heads no"
    ):
        restore(path, start(), config)
    assert_same_maps(restore(path, start(), config, swap_heads="yes"), model)
    unchanged = restore(path, start(), config, swap_heads="no").network()(IMAGES)
    expected = model.network()(IMAGES)
    np.testing.assert_allclose(unchanged["size"], expected["offset"], rtol=1e-5)
    np.testing.assert_allclose(unchanged["offset"], expected["size"], rtol=1e-5)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "state.json").unlink(), "is no checkpoint, it has no state.json"),
        (lambda folder: (folder / "state.json").write_text('{"format": 7}'), "another format than 1"),
        (lambda folder: (folder / "state.json").write_text('{"form'), "state.json is broken"),
        (lambda folder: (folder / "parameters.h5").unlink(), "no parameter file .*parameters.h5"),
        (
            lambda folder: (folder / "parameters.h5").write_bytes(
                (folder / "parameters.h5").read_bytes()[:5000]
            ),
            "parameters.h5 is not a whole .h5 file",
        ),
    ],
    ids=["no state", "format", "half a state", "no parameters", "half the parameters"],
)
def test_a_damaged_checkpoint(checkpoint, damage, words):
    damage(checkpoint)
    with pytest.raises(PointDetError, match=words):
        restore(checkpoint, start())


def test_other_files_raise_an_error(tmp_path):
    """Of other kinds too, see tests/weights/test_kind.py."""
    (tmp_path / "file.txt").write_bytes(b"x")
    for name, words in (
        ("nothing", "there is no .*nothing; give a checkpoint folder"),
        ("file.txt", "is not a check"),
    ):
        with pytest.raises(PointDetError, match=words):
            restore(tmp_path / name, start())
