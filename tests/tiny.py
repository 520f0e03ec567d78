# SPDX-License-Identifier: Apache-2.0
"""A dataset, a configuration and a model that are small enough to train in a test."""

from pathlib import Path
from unittest import mock

import numpy as np
import yaml

from pointdet.config.load import override, validate
from pointdet.config.schema import Config
from pointdet.data.shapes import OUTLINES, draw_shapes

SIDE = 64
CLASS_NAMES = tuple(OUTLINES)
VALIDATION = 'dataset.val={"annotations": ["annotations/instances_val.json"], "images": "val"}'

# Overrides for tests of all networks: one entry for each backbone and each detector.
NETWORKS = {
    "resnet": ("model.arch=resnet", "model.num_layers=18"),
    "resdcn": ("model.arch=resdcn", "model.num_layers=18"),
    "dlav0": ("model.arch=dlav0", "model.num_layers=34"),
    "dla": ("model.arch=dla", "model.num_layers=34"),
    "hourglass": ("model.arch=hourglass", "model.num_layers=104", "model.hourglass_levels=2"),
    "cornernet": ("detector.name=cornernet", "model.arch=dlav0", "model.num_layers=34"),
    "triplet": ("detector.name=triplet", "model.arch=dlav0", "model.num_layers=34"),
    "hrnet": ("model.arch=hrnet", "model.num_layers=18", "model.hrnet_blocks=1"),
}


def draw(folder: Path, train: int = 8, val: int = 4) -> Path:
    """A data folder with synthetic images of 64 x 64 pixels."""
    for seed, (split, count) in enumerate((("train", train), ("val", val))):
        draw_shapes(folder, count, seed, SIDE, SIDE, split)
    return folder


def settings(data: Path) -> dict[str, dict[str, object]]:
    """The YAML settings of a ResNet-18 with 8 to 64 channels, without validation images."""
    return {
        "dataset": {
            "dataset": "shapes",
            "format": "coco",
            "data_dir": str(data),
            "train": {"annotations": ["annotations/instances_train.json"], "images": "train"},
        },
        "model": {"width": 0.125, "head_channels": 8},
        "input": {"height": SIDE, "width": SIDE},
        "train": {
            "num_epochs": 2,
            "batch_size": 2,
            "workers": 0,
            "log_intervals": 1,
            "learning_rate": {"base_lr": 0.001, "warmup_epochs": 0},
        },
    }


def write_config(path: Path, data: Path) -> Path:
    """`settings` as a YAML file."""
    path.write_text(yaml.safe_dump(settings(data), sort_keys=False), encoding="utf-8")
    return path


def config(data: Path, *overrides: str) -> Config:
    """`settings` with overrides such as "train.seed=3"."""
    return override(validate(settings(data), "the test's configuration"), overrides)


def model(config: Config, class_names: tuple[str, ...] = CLASS_NAMES, runtime=None):
    """An untrained detector whose output depends on its images. `runtime`: the CPU by default.

    Running statistics and biases are random too, so that a test fails if one of them is not saved or used.
    The initial values of some deconvolutions are so small that only batch statistics compensate for them;
    they are scaled to the size of trained ones.
    """
    from pointdet.runtime import start
    from pointdet.training.initial_parameters import fresh

    made = fresh(config, class_names, runtime or start())
    rng = np.random.default_rng(config.train.seed)
    for name, variable in made.detector.parameters().items():
        if name.endswith("deconv/W"):
            variable.d = variable.d * (50 if np.abs(variable.d).max() < 0.1 else 1)
        elif name.rpartition("/")[2] in ("b", "beta", "gamma", "mean", "var"):
            noise = 0.1 * rng.standard_normal(variable.shape, np.float32)
            variable.d = np.float32(variable.d) + (abs(noise) if name.endswith("var") else noise)
    return made


def graph_of_running_statistics(model):
    """A training graph that normalises with running statistics, so images of a batch do not influence each
    other.

    Only then does the sum of gradients over passes or ranks equal the gradient of the joined batch.
    """
    from pointdet.ops.mode import Mode
    from pointdet.training import graph

    with mock.patch.object(graph, "Mode", lambda **settings: Mode(**settings | {"training": False})):
        return graph.TrainingGraph(model.config, model.detector, model.runtime)


def parameters(model) -> dict[str, np.ndarray]:
    """A copy of all parameters and running statistics, float32."""
    return {name: np.array(v.d, np.float32) for name, v in model.detector.parameters().items()}


def write_checkpoint(folder: Path, model) -> Path:
    """A checkpoint folder from which the model can be restored."""
    from pointdet.weights import checkpoint, h5_file

    arrays = {name: (array, True) for name, array in parameters(model).items()}
    state = {
        "weights": "parameters.h5",
        "class_names": list(model.class_names),
        "config": model.config.model_dump(mode="json"),
    }
    checkpoint.save(folder, state, lambda writing: h5_file.write(writing / "parameters.h5", arrays))
    return folder
