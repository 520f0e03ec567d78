# SPDX-License-Identifier: Apache-2.0
"""Export: every parameter of every network has a published name; layouts and metadata."""

import json

import numpy as np
import pytest
import tiny
from safetensors import safe_open

from pointdet.conversion.export_pytorch import export_pytorch
from pointdet.detectors import catalogue
from pointdet.errors import PointDetError
from pointdet.ops.layers import parameters_without_values
from pointdet.weights import plain_file
from pointdet.weights.naming.catalogue import official, to_ours, to_published


@pytest.mark.parametrize("network", tiny.NETWORKS)
def test_every_parameter_is_exported_and_imported(tmp_path, network):
    config = tiny.config(tmp_path, *tiny.NETWORKS[network])
    detector = catalogue.build(config, 4)
    with parameters_without_values():
        detector.make_parameters(config.model.granularity)
    rng = np.random.default_rng(0)
    ours = {name: rng.random(v.shape, np.float32) for name, v in detector.parameters().items()}
    names = official(config.model, config.detector.name)
    theirs = to_published(ours, names)
    assert len(theirs) == len(ours)
    back = to_ours(theirs, names)
    assert list(back) == list(ours)
    for name, array in ours.items():
        np.testing.assert_array_equal(back[name], array, strict=True)


def test_parameters_without_values_have_the_shapes_of_initialised_ones(tmp_path):
    shapes = []
    for initialise in (False, True):
        detector = catalogue.build(tiny.config(tmp_path, *tiny.NETWORKS["resdcn"]), 4)
        if initialise:
            detector.make_parameters(32)
        else:
            with parameters_without_values():
                detector.make_parameters(32)
        assert any(np.any(v.d) for v in detector.parameters().values()) == initialise
        shapes.append({name: (v.shape, v.need_grad) for name, v in detector.parameters().items()})
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("suffix", plain_file.SUFFIXES)
def test_nhwc_checkpoint_with_four_channels(tmp_path, suffix):
    """The exported file is in NCHW with three channels."""
    precision = ("mixed_precision.channel_last=true", "mixed_precision.mixed_precision=true")
    model = tiny.model(tiny.config(tiny.draw(tmp_path / "data"), *precision))
    folder, path = tiny.write_checkpoint(tmp_path / "best", model), tmp_path / f"model{suffix}"
    written = export_pytorch(folder, path)
    found = plain_file.read(path)
    assert list(written) and set(found) == set(written)
    parameters = tiny.parameters(model)
    np.testing.assert_array_equal(
        found["conv1.weight"], parameters["conv1/conv/W"].transpose(0, 3, 1, 2)[:, :3], strict=True
    )
    np.testing.assert_array_equal(found["bn1.bias"], parameters["conv1/bn/beta"].ravel(), strict=True)
    if suffix == ".safetensors":
        with safe_open(path, "numpy") as file:
            metadata = file.metadata()
        assert metadata["detector"] == "ctdet" and metadata["backbone"] == "resnet 18"
        assert tuple(json.loads(metadata["class_names"])) == tiny.CLASS_NAMES
        assert json.loads(metadata["input"])["colour_order"] == "bgr"
    with pytest.raises(PointDetError, match="exists; give another name or remove it"):
        export_pytorch(folder, path)
    assert {p.name for p in tmp_path.iterdir()} == {"data", "best", path.name}
