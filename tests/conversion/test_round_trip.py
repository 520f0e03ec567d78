# SPDX-License-Identifier: Apache-2.0
"""Checkpoint -> exported weights -> checkpoint is the identity: configuration, class names and parameters."""

import json
import zipfile

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

from pointdet.conversion.export_pytorch import export_pytorch
from pointdet.conversion.import_published import import_published
from pointdet.errors import PointDetError
from pointdet.programs.flags import DETECTORS
from pointdet.weights import checkpoint, h5_file, plain_file

BACKBONES = {name: flags for name, flags in tiny.NETWORKS.items() if "detector.name" not in flags[0]}
# As many as VOC has, but others.
NAMES = tuple(f"part {number}" for number in range(20))
SETTINGS = (
    "input={height: 64, width: 96, colour_order: rgb, mean: [0.5, 0.4, 0.3], std: [0.2, 0.3, 0.4]}",
    "test={flip: true, scales: [0.5, 1], vis_thresh: 0.07, max_detections: 33}",
    "detector.max_objects=77",
    "train.num_epochs=9",
    "dataset.metric=voc10",
)


def write(folder, *overrides, names=NAMES):
    return tiny.write_checkpoint(folder, tiny.model(tiny.config(folder.parent, *overrides), names))


def assert_same(folder, other):
    """The settings and the arrays of two checkpoints are the same, bit for bit."""
    one, two = (checkpoint.read_state(f, checkpoint.MODEL) for f in (folder, other))
    assert one["config"] == two["config"] and one["class_names"] == two["class_names"]
    before, after = (h5_file.read(f / "parameters.h5") for f in (folder, other))
    assert set(before) == set(after)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, strict=True, err_msg=name)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("detector", DETECTORS)
def test_every_network(tmp_path, detector, backbone):
    folder = write(tmp_path / "best", f"detector.name={detector}", *BACKBONES[backbone], *SETTINGS)
    suffix = plain_file.SUFFIXES[(DETECTORS.index(detector) + list(BACKBONES).index(backbone)) % 2]
    export_pytorch(folder, tmp_path / f"x{suffix}")
    imported = import_published(tmp_path / f"x{suffix}")
    assert imported.system.title == "PointDet" and not imported.settings.assumed
    imported.save(tmp_path / "back")
    assert_same(folder, tmp_path / "back")


def test_layout_and_four_channels(tmp_path):
    """The weights of the fourth channel, which is always zero, become zero."""
    precision = ("mixed_precision.channel_last=true", "mixed_precision.mixed_precision=true")
    folder = write(tmp_path / "best", *precision)
    arrays = h5_file.read(folder / "parameters.h5")
    arrays["conv1/conv/W"][..., 3] = 0
    h5_file.write(folder / "parameters.h5", {name: (array, True) for name, array in arrays.items()})
    export_pytorch(folder, tmp_path / "x.npz")
    import_published(tmp_path / "x.npz").save(tmp_path / "back")
    assert_same(folder, tmp_path / "back")


def test_overrides_and_other_classes(tmp_path):
    """The file knows its classes: a list of the same length is another list, not new names."""
    folder = write(tmp_path / "best", *SETTINGS, names=("cat", "dog", "bird"))
    export_pytorch(folder, tmp_path / "x.safetensors")
    (tmp_path / "names.txt").write_text("dog\nunicorn\ncat\n", encoding="utf-8")
    imported = import_published(
        tmp_path / "x.safetensors", str(tmp_path / "names.txt"), overrides=["input.width=64"]
    )
    assert imported.report.per_class == ("hm_final/conv/W", "hm_final/conv/b")
    lines = imported.describe().splitlines()
    assert [line for line in lines if line.startswith("  classes")] == [
        "  classes     kept: dog, cat", "  classes     start anew: unicorn", "  classes     left out: bird"
    ]  # fmt: skip
    imported.save(tmp_path / "back")
    state = checkpoint.read_state(tmp_path / "back", checkpoint.MODEL)
    assert state["class_names"] == ["dog", "unicorn", "cat"]
    assert (state["config"]["input"]["width"], state["config"]["input"]["colour_order"]) == (64, "rgb")
    before, after = (
        h5_file.read(f / "parameters.h5")["hm_final/conv/b"] for f in (folder, tmp_path / "back")
    )
    np.testing.assert_allclose(after, [before[1], -2.19, before[0]])


def test_a_file_without_its_notes_is_a_foreign_file(tmp_path):
    folder = write(tmp_path / "best", *SETTINGS)
    export_pytorch(folder, tmp_path / "x.safetensors")
    save_file(load_file(tmp_path / "x.safetensors"), tmp_path / "bare.safetensors")
    imported = import_published(tmp_path / "bare.safetensors", overrides=["model.width=0.125"])
    assert imported.system.title == "official CenterNet" and len(imported.settings.assumed) == 6


@pytest.mark.parametrize(
    ("notes", "words"),
    [
        ("{", "'pointdet' of the notes of PointDet is missing or damaged"),
        ("[]", "'pointdet' of the notes"),
        ('{"format": 1}', "'class_names' of the notes"),
        ('{"format": 2, "class_names": ["a"], "config": {}}', "'format' of the notes"),
        ('{"format": 1, "class_names": ["a"], "config": {}}', "the key dataset is missing"),
        ('{"format": 1, "class_names": [], "config": {}}', "'class_names' of the notes"),
        ('{"format": 1, "class_names": ["a", "a"], "config": {}}', "its notes name a class twice"),
    ],
)
@pytest.mark.parametrize("suffix", plain_file.SUFFIXES)
def test_damaged_notes_are_one_sentence(tmp_path, suffix, notes, words):
    plain_file.write(tmp_path / f"x{suffix}", {"a": np.zeros(1, np.float32)}, {"pointdet": notes})
    with pytest.raises(PointDetError, match=words) as raised:
        import_published(tmp_path / f"x{suffix}")
    assert f"x{suffix}" in str(raised.value) and "\n" not in str(raised.value)


def test_notes_that_are_too_long_for_npz(tmp_path):
    with pytest.raises(PointDetError, match="too long for .*x.npz; write a .safetensors file"):
        plain_file.write(tmp_path / "x.npz", {}, {"pointdet": "x" * 70_000})
    assert not (tmp_path / "x.npz").exists()


@pytest.mark.parametrize("comment", [b"made by me", b"[1]", b"\xff"])
def test_an_npz_file_with_the_comment_of_another_program(tmp_path, comment):
    np.savez(tmp_path / "x.npz", a=np.zeros(2, np.float32))
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.comment = comment
    assert plain_file.read_metadata(tmp_path / "x.npz") == {}


def test_numpy_reads_an_npz_file_with_notes(tmp_path):
    plain_file.write(tmp_path / "x.npz", {"a": np.ones(2, np.float32)}, {"pointdet": "{}"})
    with np.load(tmp_path / "x.npz") as arrays:
        assert list(arrays) == ["a"] and (arrays["a"] == 1).all()
    assert plain_file.read_metadata(tmp_path / "x.npz") == {"pointdet": "{}"}
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        assert json.loads(archive.comment) == {"pointdet": "{}"}
