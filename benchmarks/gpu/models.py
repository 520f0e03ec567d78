# SPDX-License-Identifier: Apache-2.0
"""The detectors under test: small ones for comparisons, shipped configurations for measurements."""

from __future__ import annotations

from pathlib import Path

import nnabla as nn
import numpy as np

from pointdet.config.load import load, override, validate
from pointdet.config.schema import Config
from pointdet.model.restore import Model
from pointdet.runtime import Runtime
from pointdet.training.initial_parameters import fresh

CONFIGURATIONS = Path(__file__).parents[2] / "cfg"

# Precision and layout -> overrides.
KINDS = {
    "float NCHW": ("mixed_precision.mixed_precision=false", "mixed_precision.channel_last=false"),
    "float NHWC": ("mixed_precision.mixed_precision=false", "mixed_precision.channel_last=true"),
    "half NCHW": ("mixed_precision.mixed_precision=true", "mixed_precision.channel_last=false"),
    "half NHWC": ("mixed_precision.mixed_precision=true", "mixed_precision.channel_last=true"),
}

# Every backbone and every detector.
NETWORKS = {
    "resnet": ("model.arch=resnet", "model.num_layers=18"),
    "resdcn": ("model.arch=resdcn", "model.num_layers=18"),
    "dlav0": ("model.arch=dlav0", "model.num_layers=34"),
    "dla": ("model.arch=dla", "model.num_layers=34"),
    "hrnet": ("model.arch=hrnet", "model.num_layers=18", "model.hrnet_blocks=1"),
    "hourglass": ("model.arch=hourglass", "model.num_layers=104", "model.hourglass_levels=2"),
    "cornernet": ("detector.name=cornernet", "model.arch=dlav0", "model.num_layers=34"),
    "triplet": ("detector.name=triplet", "model.arch=dlav0", "model.num_layers=34"),
    "cornernet hourglass": (
        "detector.name=cornernet",
        "model.arch=hourglass",
        "model.num_layers=104",
        "model.hourglass_levels=2",
    ),
    "triplet hourglass": (
        "detector.name=triplet",
        "model.arch=hourglass",
        "model.num_layers=104",
        "model.hourglass_levels=2",
    ),
}

# Shipped configuration -> images of a step. They fit a card with 80 GB in float; half uses the same number,
# so that the rates can be compared.
LARGE = {
    "resnet_18_coco_mp": 32,
    "dlav0_34_coco_mp": 24,
    "cornernet_hourglass_104_coco_mp": 12,
    "ctdet_dla_34_dcn_coco_mp": 24,
    "ctdet_hrnet_32_coco_mp": 16,
    "triplet_hourglass_104_coco_mp": 8,
}

# Sizes of small networks, and of the shipped configurations when a script is tried on a CPU.
ON_GPU = ("model.width=0.25", "train.batch_size=4", "input.height=128", "input.width=128")
ON_CPU = ("model.width=0.06", "train.batch_size=2", "input.height=64", "input.width=64")
IMAGES_ON_CPU = 2
LARGE_ON_CPU = ("model.width=0.06", "input.height=128", "input.width=128")


def small_config(network: str, *overrides: str) -> Config:
    """The configuration of a network of `NETWORKS`, for three classes."""
    settings = {
        "dataset": {"dataset": "random_boxes", "format": "coco"},
        "model": {"head_channels": 8},
        "train": {"learning_rate": {"warmup_epochs": 0}},
    }
    return override(validate(settings, "the settings of this check"), [*NETWORKS[network], *overrides])


def small_model(network: str, runtime: Runtime, *overrides: str) -> Model:
    """An untrained detector of `NETWORKS` with random statistics and biases.

    The initial values of some deconvolutions are so small that only batch statistics compensate for them.
    They are scaled to the size of trained ones.
    """
    config = small_config(network, *overrides)
    with nn.context_scope(runtime.context()):
        model = fresh(config, ("a", "b", "c"), runtime)
    rng = np.random.default_rng(config.train.seed)
    for name, variable in model.detector.parameters().items():
        if name.endswith("deconv/W"):
            variable.d = variable.d * (50 if np.abs(variable.d).max() < 0.1 else 1)
        elif name.rpartition("/")[2] in ("b", "beta", "gamma", "mean", "var"):
            noise = 0.1 * rng.standard_normal(variable.shape, np.float32)
            variable.d = np.float32(variable.d) + (abs(noise) if name.endswith("var") else noise)
    return model


def large_model(name: str, kind: str, runtime: Runtime, images: int, small: bool | None = None) -> Model:
    """The untrained detector of a shipped configuration, 80 classes.

    small: few channels and small images, to try a script. By default if the device is a CPU.
    """
    overrides = [
        *KINDS[kind],
        f"train.batch_size={images}",
        "train.accumulate=1",
        "model.pretrained_model_dir=null",
        *(LARGE_ON_CPU if (runtime.on_cpu if small is None else small) else ()),
    ]
    config = load(CONFIGURATIONS / f"{name}.yaml", overrides)
    with nn.context_scope(runtime.context()):
        return fresh(config, tuple(map(str, range(80))), runtime)
