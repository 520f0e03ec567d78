# SPDX-License-Identifier: Apache-2.0
"""Errors for mistakes in the dataset section."""

from __future__ import annotations

from pathlib import Path

import pytest

from pointdet.config import schema
from pointdet.data.catalogue import read_dataset
from pointdet.errors import PointDetError


def section(**keys: object) -> schema.DatasetConfig:
    return schema.DatasetConfig.model_validate({"dataset": "toy", "format": "coco"} | keys)


def test_data_folder_is_needed(tmp_path: Path) -> None:
    with pytest.raises(PointDetError, match="add --data_dir"):
        read_dataset(section(), "train")
    with pytest.raises(PointDetError, match="nowhere does not exist"):
        read_dataset(section(data_dir=str(tmp_path / "nowhere")), "train")


def test_split_is_needed(tmp_path: Path) -> None:
    with pytest.raises(PointDetError, match=r"no dataset\.test"):
        read_dataset(section(data_dir=str(tmp_path)), "test")


def test_coco_split_needs_its_image_folder(tmp_path: Path) -> None:
    with pytest.raises(PointDetError, match="the key `images`"):
        read_dataset(section(data_dir=str(tmp_path), train={"annotations": ["a.json"]}), "train")


def test_voc_classes_come_from_the_train_split(tmp_path: Path) -> None:
    config = section(format="voc", data_dir=str(tmp_path), val={"annotations": ["a.txt"]})
    with pytest.raises(PointDetError, match=r"list them in dataset\.class_names"):
        read_dataset(config, "val")
