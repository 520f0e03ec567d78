# SPDX-License-Identifier: Apache-2.0
"""How a run begins: its folder, its first parameters, and what fine-tuning takes over."""

import logging
from collections import OrderedDict

import numpy as np
import pytest
import tiny
import torch_writer
import yaml

from pointdet.config.load import load
from pointdet.errors import PointDetError
from pointdet.runtime import start as start_runtime
from pointdet.training import start
from pointdet.weights import checkpoint, h5_file
from pointdet.weights.fit import converted
from pointdet.weights.naming.catalogue import imagenet
from pointdet.weights.published import with_swapped_heads


@pytest.fixture
def config(data):
    return tiny.config(data)


@pytest.fixture
def log(caplog, monkeypatch):
    """The log's text; a run sends it elsewhere."""
    monkeypatch.setattr(start, "log_to_console", lambda rank: None)
    monkeypatch.setattr(start, "keep_log", lambda folder: None)
    monkeypatch.setattr(logging.getLogger("pointdet"), "propagate", True)
    caplog.set_level(logging.INFO, "pointdet")
    return caplog


def open_folder(folder, config, resume=False):
    """Both halves of a beginning."""
    runtime = start_runtime()
    last = start.begin(folder, resume, runtime)
    start.open_folder(folder, config, runtime)
    return last


def write_h5(path, arrays):
    h5_file.write(path, {name: (array, True) for name, array in arrays.items()})
    return path


def test_a_run_folder_says_how_to_do_it_again(tmp_path, config, log):
    folder = tmp_path / "runs" / "mine"
    assert open_folder(folder, config) is None
    assert load(folder / "config.yaml") == config
    assert yaml.safe_load((folder / "config.yaml").read_text())["train"]["seed"] == 317
    environment = (folder / "environment.txt").read_text()
    assert environment.startswith("rank 0 of 1 on the CPU (") and "nnabla==" in environment
    assert "rank 0 of 1 on the CPU" in log.text


def test_a_run_is_neither_overwritten_nor_invented(tmp_path, config, log):
    with pytest.raises(PointDetError, match="no checkpoint to resume in .*mine; start without --resume"):
        open_folder(tmp_path / "mine", config, resume=True)
    assert not (tmp_path / "mine").exists()
    checkpoint.save(tmp_path / "mine" / "checkpoints" / "last", {}, lambda folder: None)
    with pytest.raises(PointDetError, match="mine already holds a run; add --resume .* or choose another -o"):
        open_folder(tmp_path / "mine", config)
    assert not (tmp_path / "mine" / "config.yaml").exists()
    last = tmp_path / "mine" / "checkpoints" / "last"
    assert open_folder(tmp_path / "mine", config, resume=True) == last


def test_replacements_that_were_interrupted_are_completed(tmp_path, config, log):
    folder = tmp_path / "checkpoints"
    for name in ("last", "best"):
        checkpoint.save(folder / f".{name}.old", {"epoch": 1}, lambda folder: None)
    assert open_folder(tmp_path, config, resume=True) == folder / "last"
    assert {path.name for path in folder.iterdir()} == {"last", "best"}


def test_an_older_checkpoint_is_chosen_by_its_iteration(tmp_path, log):
    folder = tmp_path / "checkpoints"
    for name, epoch in (("epoch_0001", 1), ("epoch_0002", 2), ("best", 2)):
        checkpoint.save(folder / name, {"epoch": epoch, "updates_per_epoch": 5}, lambda folder: None)
    runtime = start_runtime()
    assert start.begin(tmp_path, False, runtime, iteration=5) == folder / "epoch_0001"
    assert start.begin(tmp_path, True, runtime) == folder / "epoch_0002"  # the newest: `last` is gone
    with pytest.raises(PointDetError, match="no checkpoint of iteration 7; it has those of 5, 10"):
        start.begin(tmp_path, True, runtime, iteration=7)
    with pytest.raises(PointDetError, match="already holds a run"):
        start.begin(tmp_path, False, runtime)
    with pytest.raises(PointDetError, match="no checkpoint to resume in .*none; start without --iter"):
        start.begin(tmp_path / "none", False, runtime, iteration=5)
    start.go_back(tmp_path, 10, runtime)
    assert "iteration" not in log.text
    start.go_back(tmp_path, 5, runtime)
    assert f"the checkpoints after iteration 5 are now in {folder / 'set_aside_1'}" in log.text
    assert start.begin(tmp_path, True, runtime) == folder / "epoch_0001"


def test_no_permission(tmp_path, config, log):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        PointDetError, match=r"cannot write to .*file/run \(Not a directory\); choose another"
    ):
        open_folder(tmp_path / "file" / "run", config)


def test_the_seed_decides(data):
    def drawn(seed):
        config = tiny.config(data, f"train.seed={seed}")
        return tiny.parameters(start.fresh(config, tiny.CLASS_NAMES, start_runtime()))

    one, same, other = drawn(1), drawn(1), drawn(2)
    for name, array in one.items():
        np.testing.assert_array_equal(array, same[name])
    drawn_at_random = [name for name in one if name.endswith("/W")]
    assert all((one[name] != other[name]).any() for name in drawn_at_random)
    assert all(np.isfinite(array).all() for array in one.values())


def test_fine_tuning_for_other_classes(tmp_path, config, log):
    old = tiny.model(config, ("cat", "dog"))
    folder = tiny.write_checkpoint(tmp_path / "best", old)
    model = start.fresh(config, tiny.CLASS_NAMES, start_runtime())
    fresh = tiny.parameters(model)
    start.take_parameters(folder, model)
    found = tiny.parameters(model)
    for name, array in tiny.parameters(old).items():
        new_classes = name.startswith("hm_final/")
        np.testing.assert_array_equal(found[name], fresh[name] if new_classes else array)
    count = len(tiny.CLASS_NAMES)
    assert f"best/parameters.h5: kept {len(found) - 2}, skipped 2, new 0 parameters" in log.text
    assert f"skipped: hm_final/conv/W (2, 8, 1, 1) for ({count}, 8, 1, 1), hm_final/conv/b (2,)" in log.text


def test_fine_tuning_takes_the_moving_average(tmp_path, config, log):
    old = tiny.model(config)
    average = {name: (array + 1, True) for name, array in tiny.parameters(old).items()}
    checkpoint.save(
        tmp_path / "best", {"weights": "ema.h5"}, lambda folder: h5_file.write(folder / "ema.h5", average)
    )
    model = start.fresh(config, tiny.CLASS_NAMES, start_runtime())
    start.take_parameters(tmp_path / "best", model)
    for name, array in tiny.parameters(model).items():
        np.testing.assert_array_equal(array, average[name][0])


def test_fine_tuning_from_a_file_with_exchanged_heads(tmp_path, config, log):
    old = tiny.model(config)
    old.detector.parameters()["wh_final/conv/b"].d = np.float32([6, 9])
    path = write_h5(tmp_path / "old.h5", with_swapped_heads(tiny.parameters(old)))
    model = start.fresh(config, tiny.CLASS_NAMES, start_runtime())
    start.take_parameters(path, model)
    np.testing.assert_array_equal(tiny.parameters(model)["wh_final/conv/b"], [6, 9])
    assert "old.h5: size and offset heads are exchanged" in log.text


def test_fine_tuning_from_something_else(tmp_path, config):
    model = start.fresh(config, tiny.CLASS_NAMES, start_runtime())
    path = write_h5(tmp_path / "other.h5", {"dense/W": np.zeros((3, 3), np.float32)})
    with pytest.raises(PointDetError, match="nothing in .*other.h5 fits this network; check model.arch"):
        start.take_parameters(path, model)
    with pytest.raises(PointDetError, match="there is no parameter file .*nothing.h5"):
        start.take_parameters(tmp_path / "nothing.h5", model)
    with pytest.raises(PointDetError, match="is no checkpoint, it has no state.json"):
        start.take_parameters(tmp_path, model)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_imagenet_backbone_in_either_layout(tmp_path, data, layout, log):
    config = tiny.config(data, f"model.pretrained_model_dir={tmp_path}")
    old = tiny.model(config)
    backbone = {n: a for n, a in tiny.parameters(old).items() if n.startswith(("conv1/", "res"))}
    published = converted({**backbone, "fc/affine/W": np.zeros((64, 9), np.float32)}, layout == "nhwc")
    write_h5(tmp_path / f"resnet18_{layout}_imagenet.h5", published)
    model = start.fresh(config, tiny.CLASS_NAMES, start_runtime())
    fresh = tiny.parameters(model)
    start.take_imagenet(model)
    for name, array in tiny.parameters(model).items():
        np.testing.assert_array_equal(array, backbone.get(name, fresh[name]))
    assert f"kept {len(backbone)}, skipped 0, new {len(fresh) - len(backbone)} parameters" in log.text
    assert "fc/" not in log.text


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_imagenet_backbone_of_pytorch(golden, tmp_path, data, layout, log):
    """Its images were RGB, ours are BGR."""
    config = tiny.config(data, f"model.pretrained_model_dir={tmp_path}")
    model = start.fresh(config, tiny.CLASS_NAMES, start_runtime())
    fresh = tiny.parameters(model)
    rng, file, state, expected = np.random.default_rng(0), torch_writer.File(layout), OrderedDict(), {}
    for key, shape in golden("published_keys.json")["torchvision_resnet18"]:
        name = imagenet("resnet", False).ours(key)
        shape = fresh[name].shape if name else shape
        array = rng.standard_normal(shape).astype(np.float32)
        state[key] = file.tensor(array.reshape(-1) if name and "/bn/" in name else array)
        if name:
            expected[name] = array[:, ::-1] if name == "conv1/conv/W" else array
    (tmp_path / "resnet18-01234567.pth").write_bytes(file.written(state))
    start.take_imagenet(model)
    for name, array in tiny.parameters(model).items():
        np.testing.assert_array_equal(array, expected.get(name, fresh[name]))
    assert f"resnet18-01234567.pth: kept {len(expected)}, skipped 0" in log.text


def test_no_imagenet_backbone(tmp_path, data):
    config = tiny.config(data, f"model.pretrained_model_dir={tmp_path}")
    with pytest.raises(
        PointDetError,
        match=r"there is no resnet18_nchw_imagenet.h5 or resnet18-\*.pth in .* from scratch with",
    ):
        start.take_imagenet(start.fresh(config, tiny.CLASS_NAMES, start_runtime()))
