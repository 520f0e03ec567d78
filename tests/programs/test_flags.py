# SPDX-License-Identifier: Apache-2.0
"""Flags: overrides, device, configuration, and agreement with the checkpoint."""

import argparse
from pathlib import Path

import pytest

from pointdet.config import shipped
from pointdet.config.load import load
from pointdet.config.schema import Config, RuntimeConfig
from pointdet.errors import PointDetError
from pointdet.programs import flags

DATASET = {"dataset": "pascal", "format": "voc", "metric": "voc07"}


def parsed(line):
    parser = argparse.ArgumentParser(prog="demo.py")
    flags.add_model_flags(parser)
    flags.add_test_flags(parser)
    return parser.parse_args(line.split())


def test_test_flags_become_overrides_and_set_has_priority(tmp_path):
    args = parsed(
        "ctdet --test_flip --test_scales 0.5,0.75,1 --keep_res --K 40 --vis_thresh 0.25 --set test.flip=false"
    )
    args.data_dir = Path("a: odd [folder]")
    path = tmp_path / "x.yaml"
    path.write_text("dataset: {dataset: pascal, format: voc}\n")
    config = load(path, flags.overrides(args))
    assert config.dataset.data_dir == "a: odd [folder]"
    assert config.test.scales == (0.5, 0.75, 1.0)
    assert config.test.keep_resolution and config.test.max_detections == 40 and config.test.vis_thresh == 0.25
    assert not config.test.flip


def test_flags_that_are_not_given_override_nothing():
    assert flags.overrides(parsed("ctdet")) == []
    assert parsed("ctdet").save_dir == Path("runs/demo")


@pytest.mark.parametrize(
    "line, expected",
    [
        ("--gpus 1", ("cudnn", (1,))),
        ("--gpus 3,0,12", ("cudnn", (3, 0, 12))),
        ("--gpus -1", ("cpu", None)),
        ("--extension_module cpu --gpus -1", ("cpu", None)),
        ("--extension_module cpu --gpus 0", ("cpu", (0,))),
        ("--extension_module cudnn", ("cudnn", None)),
        ("--extension_module cudnn --gpus 2", ("cudnn", (2,))),
    ],
)
def test_device(line, expected):
    args = parsed(f"ctdet {line}")
    assert flags.device(args) == flags.device(args, needs_gpu=False) == expected
    assert flags.requests_gpu(args) == (expected[0] == "cudnn")


@pytest.mark.parametrize(
    "value, sentence",
    [
        ("0,1,0", "'0,1,0' names a GPU twice; give each rank a GPU of its own"),
        ("0,x", "'0,x' is not a list of GPU numbers such as 0,1, nor -1 for the CPU"),
        ("0,-1", "'0,-1' is not a list of GPU numbers"),
        ("0,,1", "'0,,1' is not a list of GPU numbers"),
        ("1.5", "'1.5' is not a list of GPU numbers"),
    ],
)
def test_wrong_gpus_are_errors_of_the_flag(capsys, value, sentence):
    with pytest.raises(SystemExit):
        parsed(f"ctdet --gpus {value}")
    assert f"error: argument --gpus: {sentence}" in capsys.readouterr().err


def test_gpu_and_cpu_cannot_both_be_requested():
    with pytest.raises(
        PointDetError, match="cudnn selects the GPU and --gpus -1 the CPU; leave one of them out"
    ):
        flags.device(parsed("ctdet --extension_module cudnn --gpus -1"))


@pytest.mark.parametrize("installed", [True, False])
def test_default_device_is_cudnn_if_it_is_installed(monkeypatch, installed):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if installed else None)
    assert flags.device(parsed("ctdet")) == ("cudnn" if installed else "cpu", None)
    assert flags.device(parsed("ctdet"), needs_gpu=False) == ("cpu", None)


def test_runtime_settings_come_from_set():
    assert flags.runtime_settings(parsed("ctdet")) == RuntimeConfig()
    line = "ctdet --set runtime.cpu_kernels=nnabla --set train.seed=1 --set runtime.cpu_kernels=blas"
    found = flags.runtime_settings(parsed(f"{line} --set runtime.communication_timeout=5"))
    assert (found.cpu_kernels, found.communication_timeout) == ("blas", 5)
    with pytest.raises(PointDetError, match=r"runtime\.communication_timeout"):
        flags.runtime_settings(parsed("ctdet --set runtime.communication_timeout=-1"))


def test_configuration_of_an_h5_file_is_found_by_the_flags(tmp_path, monkeypatch):
    (tmp_path / "resnet_18_pascal_fp.yaml").write_text("dataset: {dataset: pascal, format: voc}\n")
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    args = parsed("ctdet --dataset pascal --arch resnet --num_layers 18 --K 7")
    config = flags.config_of(args, Path("x.h5"))
    assert config.dataset.dataset == "pascal" and config.test.max_detections == 7
    assert flags.config_of(args, tmp_path) is None  # a folder knows itself
    (tmp_path / "ctdet_resnet_18_pascal_fp.yaml").write_text("dataset: {dataset: ours, format: voc}\n")
    assert flags.config_of(args, Path("x.h5")).dataset.dataset == "ours"  # the fuller name goes first
    with pytest.raises(PointDetError, match=r"resnet_50_pascal_fp.yaml; .*resnet_18_pascal_fp\)"):
        flags.config_path(parsed("ctdet --dataset pascal --arch resnet --num_layers 50"))
    with pytest.raises(PointDetError, match="the detector, --dataset, --arch and --num_layers together"):
        flags.config_path(parsed("ctdet --arch resnet"))
    own = tmp_path / "own.yaml"
    own.write_text("")
    assert flags.config_path(parsed(f"ctdet --train-config {own}")) == own


def test_flags_must_agree_with_the_checkpoint():
    config = Config.model_validate({"dataset": DATASET})
    folder = Path("run/best")
    flags.check_agreement(parsed("ctdet"), config, folder)
    flags.check_agreement(parsed("ctdet --dataset pascal --arch resnet --num_layers 18"), config, folder)
    for line, sentence in {
        "--dataset coco": "--dataset coco disagrees with run/best, which holds pascal",
        "--arch dlav0": "--arch dlav0 disagrees with run/best, which holds resnet",
        "--num_layers 50": "--num_layers 50 disagrees with run/best, which holds 18",
    }.items():
        with pytest.raises(PointDetError, match=sentence):
            flags.check_agreement(parsed(f"ctdet {line}"), config, folder)
