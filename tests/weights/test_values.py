# SPDX-License-Identifier: Apache-2.0
"""Values that no trained network has are errors, for checkpoints, parameter files and fine-tuning."""

import numpy as np
import pytest
import tiny

from pointdet.errors import PointDetError
from pointdet.model.restore import restore
from pointdet.runtime import start
from pointdet.training.initial_parameters import fresh, load_imagenet, load_parameters
from pointdet.weights import h5_file, values

WRONG = {
    "conv1/conv/W": (np.nan, "values that are NaN or infinite"),
    "hm_final/conv/b": (-np.inf, "values that are NaN or infinite"),
    "conv1/bn/var": (-0.01, "negative variances"),
}


@pytest.fixture(params=WRONG)
def fault(request, tmp_path):
    """A checkpoint with one wrong value, and the error."""
    model = tiny.model(tiny.config(tmp_path))
    value, words = WRONG[request.param]
    model.detector.parameters()[request.param].d.flat[0] = value
    return tiny.write_checkpoint(tmp_path / "best", model), f"{request.param} of .* has {words}"


def test_a_checkpoint(fault):
    with pytest.raises(PointDetError, match=fault[1]):
        restore(fault[0], start())


def test_a_parameter_file(fault, tmp_path):
    (fault[0] / "state.json").unlink()
    config = tiny.config(tmp_path, f"dataset.class_names=[{', '.join(tiny.CLASS_NAMES)}]")
    with pytest.raises(PointDetError, match=fault[1]):
        restore(fault[0] / "parameters.h5", start(), config)


def test_fine_tuning(fault, tmp_path):
    with pytest.raises(PointDetError, match=fault[1]):
        load_parameters(fault[0], fresh(tiny.config(tmp_path), tiny.CLASS_NAMES, start()))


def test_a_backbone(fault, tmp_path):
    (fault[0] / "parameters.h5").rename(tmp_path / "resnet18_nchw_imagenet.h5")
    model = fresh(tiny.config(tmp_path, f"model.pretrained_model_dir={tmp_path}"), tiny.CLASS_NAMES, start())
    with pytest.raises(PointDetError, match=fault[1]):
        load_imagenet(model)


def test_only_what_is_used_is_checked(tmp_path):
    model = tiny.model(tiny.config(tmp_path))
    folder = tiny.write_checkpoint(tmp_path / "best", model)
    arrays = h5_file.read(folder / "parameters.h5") | {"other/W": np.full(3, np.nan, np.float32)}
    h5_file.write(folder / "parameters.h5", {name: (array, True) for name, array in arrays.items()})
    restore(folder, start())


def test_variances_of_zero_and_empty_arrays():
    values.check({"a/bn/var": np.zeros(3, np.float32), "b/bn/var": np.zeros(0, np.float32)}, "x")
