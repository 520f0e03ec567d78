# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning copies classes by name, and says or converts what differs in the colours."""

import logging

import numpy as np
import pytest
import tiny

from pointdet.runtime import start
from pointdet.training.initial_parameters import fresh, load_parameters
from pointdet.weights import class_names, h5_file

ROWS = ("hm_final/conv/W", "hm_final/conv/b")


@pytest.fixture
def log(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("pointdet"), "propagate", True)
    caplog.set_level(logging.INFO, "pointdet")
    return caplog


def loaded(path, *overrides, names, data):
    """The initial parameters of a run, and those after a checkpoint is loaded."""
    model = fresh(tiny.config(data, *overrides), names, start())
    before = tiny.parameters(model)
    load_parameters(path, model)
    return before, tiny.parameters(model), model


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_classes_in_another_order(tmp_path, log, layout):
    old = tiny.model(tiny.config(tmp_path), ("cat", "dog", "bird"))
    folder = tiny.write_checkpoint(tmp_path / "best", old)
    nhwc = f"mixed_precision.channel_last={layout == 'NHWC'}"
    _, found, _ = loaded(folder, nhwc, names=("dog", "bird", "cat"), data=tmp_path)
    for name in ROWS:
        array = tiny.parameters(old)[name]
        wanted = array.transpose(0, 2, 3, 1) if layout == "NHWC" and array.ndim == 4 else array
        np.testing.assert_array_equal(found[name], wanted[[1, 2, 0]])
    assert f"kept {len(found) - 2}, skipped 0, new 0 parameters, by class name 2" in log.text
    assert "classes that keep their rows: dog, bird, cat" in log.text and "start anew" not in log.text


@pytest.mark.parametrize("detector", ["ctdet", "cornernet", "triplet"])
def test_some_new_classes_and_another_number(tmp_path, log, detector):
    flags = (
        f"detector.name={detector}",
        "model.arch=hourglass",
        "model.num_layers=104",
        "model.hourglass_levels=2",
    )
    old = tiny.model(tiny.config(tmp_path, *flags), ("cat", "dog", "bird"))
    folder = tiny.write_checkpoint(tmp_path / "best", old)
    names = ("unicorn", "bird", "gnu", "cat")
    before, found, _ = loaded(folder, *flags, names=names, data=tmp_path)
    rows = [name for name in found if name.endswith(("hm_final/conv/W", "heatmap_final/conv/b"))]
    assert len(rows) == {"ctdet": 2, "cornernet": 4, "triplet": 6}[detector]  # of two stacks
    for name in rows:
        array = tiny.parameters(old)[name]
        np.testing.assert_array_equal(found[name][[1, 3]], array[[2, 0]])
        np.testing.assert_array_equal(found[name][[0, 2]], before[name][[0, 2]])
    assert "classes that keep their rows: bird, cat" in log.text
    assert "classes that start anew: unicorn, gnu" in log.text
    assert "classes that this run does not have: dog" in log.text


def test_as_many_classes_with_other_names(tmp_path, log):
    """No row is copied, although the shapes are the same."""
    folder = tiny.write_checkpoint(tmp_path / "best", tiny.model(tiny.config(tmp_path), ("cat", "dog")))
    before, found, _ = loaded(folder, names=("gnu", "yak"), data=tmp_path)
    for name in ROWS:
        np.testing.assert_array_equal(found[name], before[name])
    assert "classes that start anew: gnu, yak" in log.text and "keep their rows" not in log.text


def test_a_parameter_file_within_a_checkpoint_has_its_classes(tmp_path, log):
    old = tiny.model(tiny.config(tmp_path), ("cat", "dog"))
    folder = tiny.write_checkpoint(tmp_path / "best", old)
    _, found, _ = loaded(folder / "parameters.h5", names=("dog", "cat"), data=tmp_path)
    np.testing.assert_array_equal(found[ROWS[1]], tiny.parameters(old)[ROWS[1]][::-1])


def bare(path, names, data):
    old = tiny.model(tiny.config(data), names)
    h5_file.write(path, {name: (array, True) for name, array in tiny.parameters(old).items()})
    return tiny.parameters(old)


def test_a_bare_file_of_voc(tmp_path, log):
    """Its classes are known by their number; the log says that they are assumed."""
    old = bare(tmp_path / "x.h5", class_names.VOC, tmp_path)
    before, found, _ = loaded(tmp_path / "x.h5", names=("dog", "yak"), data=tmp_path)
    row = class_names.VOC.index("dog")
    for name in ROWS:
        np.testing.assert_array_equal(found[name][0], old[name][row])
        np.testing.assert_array_equal(found[name][1], before[name][1])
    assert (
        "x.h5 has no settings. Assumed: its 20 classes are those of VOC, by their number; its input is"
        in log.text
    )


@pytest.mark.parametrize(
    ("names", "words"), [(("a", "b"), "in the same order"), (("a",), "others than those of this")]
)
def test_a_bare_file_of_other_classes(tmp_path, log, names, words):
    old = bare(tmp_path / "x.h5", ("p", "q"), tmp_path)
    before, found, _ = loaded(tmp_path / "x.h5", names=names, data=tmp_path)
    np.testing.assert_array_equal(found[ROWS[1]], (old if len(names) == 2 else before)[ROWS[1]])
    assert words in log.text


RGB = "input={height: 64, width: 64, colour_order: rgb, mean: [0.1, 0.2, 0.3], std: [0.5, 0.6, 0.7]}"
BGR = "input={height: 64, width: 64, colour_order: bgr, mean: [0.3, 0.2, 0.1], std: [0.7, 0.6, 0.5]}"
OTHER = "input={height: 64, width: 64, colour_order: bgr, mean: [0.3, 0.2, 0.2], std: [0.7, 0.6, 0.5]}"
PRECISIONS = {
    "NCHW": (),
    "NHWC, four channels": ("mixed_precision.channel_last=true", "mixed_precision.mixed_precision=true"),
}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_another_colour_order_is_converted(tmp_path, log, precision):
    """The maps are the same: each colour has the same weights and the same normalisation as before."""
    old = tiny.model(tiny.config(tmp_path, RGB))
    folder = tiny.write_checkpoint(tmp_path / "best", old)
    _, _, model = loaded(folder, BGR, *PRECISIONS[precision], names=tiny.CLASS_NAMES, data=tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    expected, found = old.network()(pixels), model.network()(pixels)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5 * np.abs(array).max())
    assert "was trained on rgb images, this run uses bgr: the first convolution is converted" in log.text
    assert "another input" not in log.text


def test_another_normalisation_is_a_warning(tmp_path, log):
    folder = tiny.write_checkpoint(tmp_path / "best", tiny.model(tiny.config(tmp_path, RGB)))
    loaded(folder, OTHER, names=tiny.CLASS_NAMES, data=tmp_path)
    warnings = [record.getMessage() for record in log.records if record.levelname == "WARNING"]
    assert len(warnings) == 2 and warnings[1].endswith("set input.mean=[0.3, 0.2, 0.1]")


def test_the_same_settings_are_no_warning(tmp_path, log):
    folder = tiny.write_checkpoint(tmp_path / "best", tiny.model(tiny.config(tmp_path, RGB)))
    loaded(folder, RGB, names=tiny.CLASS_NAMES, data=tmp_path)
    assert [record.levelname for record in log.records] == ["INFO"]
    assert "by class name" not in log.text
