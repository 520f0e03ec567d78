# SPDX-License-Identifier: Apache-2.0
"""A dataset, a configuration and a model small enough to train within a test."""

from pathlib import Path

import yaml

from pointdet import runtime as runtimes
from pointdet.config.load import load
from pointdet.config.schema import Config
from pointdet.data.shapes import OUTLINES, draw_shapes

SIDE = 64
CLASS_NAMES = tuple(OUTLINES)


def draw(folder: Path, train: int = 8, val: int = 4) -> Path:
    """A data folder of drawn images, 64 x 64."""
    for seed, (split, count) in enumerate((("train", train), ("val", val))):
        if count:
            draw_shapes(folder, count, seed, SIDE, SIDE, split)
    return folder


def settings(data: Path) -> dict[str, dict[str, object]]:
    """The configuration of a ResNet-18 of 8 to 64 channels, as the YAML file holds it; no validation."""
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


VALIDATION = 'dataset.val={"annotations": ["annotations/instances_val.json"], "images": "val"}'


def write_config(path: Path, data: Path) -> Path:
    """`settings` as a YAML file."""
    path.write_text(yaml.safe_dump(settings(data), sort_keys=False), encoding="utf-8")
    return path
