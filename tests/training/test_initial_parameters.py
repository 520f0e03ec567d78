# SPDX-License-Identifier: Apache-2.0
"""Random initial parameters, fine-tuning from checkpoints, and ImageNet backbones."""

import logging
import time
from collections import OrderedDict
from unittest import mock

import numpy as np
import pytest
import tiny
import torch_writer

from pointdet.errors import PointDetError
from pointdet.runtime import start
from pointdet.training.initial_parameters import fresh, load_imagenet, load_parameters
from pointdet.weights import checkpoint, h5_file
from pointdet.weights.fit import converted
from pointdet.weights.naming.catalogue import imagenet
from pointdet.weights.published import with_swapped_heads


@pytest.fixture
def config(data):
    return tiny.config(data)


@pytest.fixture
def log(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("pointdet"), "propagate", True)
    caplog.set_level(logging.INFO, "pointdet")
    return caplog


def write_h5(path, arrays):
    h5_file.write(path, {name: (array, True) for name, array in arrays.items()})
    return path


def test_the_seed_determines_the_parameters(data):
    def initialised(seed):
        config = tiny.config(data, f"train.seed={seed}")
        return tiny.parameters(fresh(config, tiny.CLASS_NAMES, start()))

    one, same, other = initialised(1), initialised(1), initialised(2)
    for name, array in one.items():
        np.testing.assert_array_equal(array, same[name])
    kernels = [name for name in one if name.endswith("/W")]
    assert all((one[name] != other[name]).any() for name in kernels)
    assert all(np.isfinite(array).all() for array in one.values())


def test_fine_tuning_for_other_classes(tmp_path, config, log):
    old = tiny.model(config, ("cat", "dog"))
    folder = tiny.write_checkpoint(tmp_path / "best", old)
    model = fresh(config, tiny.CLASS_NAMES, start())
    before = tiny.parameters(model)
    load_parameters(folder, model)
    found = tiny.parameters(model)
    for name, array in tiny.parameters(old).items():
        new_classes = name.startswith("hm_final/")
        np.testing.assert_array_equal(found[name], before[name] if new_classes else array)
    assert (
        f"best/parameters.h5: kept {len(found) - 2}, skipped 0, new 0 parameters, by class name 2" in log.text
    )
    assert f"classes that start anew: {', '.join(tiny.CLASS_NAMES)}" in log.text


def test_fine_tuning_loads_the_moving_average(tmp_path, config, log):
    old = tiny.model(config)
    average = {name: (array + 1, True) for name, array in tiny.parameters(old).items()}
    state = checkpoint.read_state(tiny.write_checkpoint(tmp_path / "best", old))
    checkpoint.save(
        tmp_path / "best",
        state | {"weights": "ema.h5"},
        lambda folder: h5_file.write(folder / "ema.h5", average),
    )
    model = fresh(config, tiny.CLASS_NAMES, start())
    load_parameters(tmp_path / "best", model)
    for name, array in tiny.parameters(model).items():
        np.testing.assert_array_equal(array, average[name][0])


def test_fine_tuning_from_a_file_with_exchanged_heads(tmp_path, config, log):
    old = tiny.model(config)
    old.detector.parameters()["wh_final/conv/b"].d = np.float32([6, 9])
    path = write_h5(tmp_path / "old.h5", with_swapped_heads(tiny.parameters(old)))
    model = fresh(config, tiny.CLASS_NAMES, start())
    load_parameters(path, model)
    np.testing.assert_array_equal(tiny.parameters(model)["wh_final/conv/b"], [6, 9])
    assert "old.h5: size and offset heads are exchanged" in log.text


def test_fine_tuning_from_files_that_do_not_fit(tmp_path, config):
    model = fresh(config, tiny.CLASS_NAMES, start())
    path = write_h5(tmp_path / "other.h5", {"dense/W": np.zeros((3, 3), np.float32)})
    with pytest.raises(PointDetError, match="nothing in .*other.h5 fits this network; check model.arch"):
        load_parameters(path, model)
    with pytest.raises(PointDetError, match="there is no .*nothing.h5; give a checkpoint folder or"):
        load_parameters(tmp_path / "nothing.h5", model)
    with pytest.raises(PointDetError, match="is no checkpoint, it has no state.json"):
        load_parameters(tmp_path, model)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_imagenet_backbone_in_either_layout(tmp_path, data, layout, log):
    config = tiny.config(data, f"model.pretrained_model_dir={tmp_path}")
    old = tiny.model(config)
    backbone = {n: a for n, a in tiny.parameters(old).items() if n.startswith(("conv1/", "res"))}
    published = converted({**backbone, "fc/affine/W": np.zeros((64, 9), np.float32)}, layout == "nhwc")
    write_h5(tmp_path / f"resnet18_{layout}_imagenet.h5", published)
    model = fresh(config, tiny.CLASS_NAMES, start())
    before = tiny.parameters(model)
    load_imagenet(model)
    for name, array in tiny.parameters(model).items():
        np.testing.assert_array_equal(array, backbone.get(name, before[name]))
    assert f"kept {len(backbone)}, skipped 0, new {len(before) - len(backbone)} parameters" in log.text
    assert "fc/" not in log.text


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_imagenet_backbone_of_pytorch(golden, tmp_path, data, layout, log):
    """The first convolution is converted from RGB to BGR."""
    config = tiny.config(data, f"model.pretrained_model_dir={tmp_path}")
    model = fresh(config, tiny.CLASS_NAMES, start())
    before = tiny.parameters(model)
    rng, file, state, expected = np.random.default_rng(0), torch_writer.File(layout), OrderedDict(), {}
    for key, shape in golden("published_keys.json")["torchvision_resnet18"]:
        name = imagenet("resnet", False).ours(key)
        shape = before[name].shape if name else shape
        array = np.abs(rng.standard_normal(shape)).astype(np.float32)  # variances are positive
        state[key] = file.tensor(array.reshape(-1) if name and "/bn/" in name else array)
        if name:
            expected[name] = array[:, ::-1] if name == "conv1/conv/W" else array
    (tmp_path / "resnet18-01234567.pth").write_bytes(file.written(state))
    load_imagenet(model)
    for name, array in tiny.parameters(model).items():
        np.testing.assert_array_equal(array, expected.get(name, before[name]))
    assert f"resnet18-01234567.pth: kept {len(expected)}, skipped 0" in log.text


def test_no_imagenet_backbone(tmp_path, data):
    config = tiny.config(data, f"model.pretrained_model_dir={tmp_path}")
    with pytest.raises(
        PointDetError,
        match=r"there is no resnet18_nchw_imagenet.h5 or resnet18-\*.pth in .* from scratch with",
    ):
        load_imagenet(fresh(config, tiny.CLASS_NAMES, start()))


def test_a_network_that_does_not_fit_into_the_memory(tmp_path):
    """Refused before its parameters get values: a 3x3 convolution of 4096 to 4096 channels has 576 MiB."""
    config = tiny.config(tmp_path, "model.head_channels=4096", "model.feature_channels=4096")
    limit = 1 << 30
    with mock.patch("pointdet.available_memory.available_bytes", lambda: limit):
        start = time.process_time()
        with pytest.raises(
            PointDetError, match="training this network needs .* MiB, but 1,024 MiB of memory .*; lower"
        ):
            tiny.model(config)
        assert time.process_time() - start < 5
