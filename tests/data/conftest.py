# SPDX-License-Identifier: Apache-2.0
"""Fixtures that write small datasets to disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pointdet.config import schema


@pytest.fixture
def write_image() -> Callable[..., Path]:
    def write(path: Path, height: int = 40, width: int = 60, seed: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), np.uint8)
        assert cv2.imwrite(str(path), cv2.resize(coarse, (width, height)))
        return path

    return write


@pytest.fixture
def coco(tmp_path: Path, write_image: Callable[..., Path]) -> Callable[..., schema.DatasetConfig]:
    """Writes images a.jpg and b.jpg, 40 x 60 pixels, and the given annotations. Returns the dataset section."""

    def write(annotations: Sequence[dict[str, Any]], /, **changes: Any) -> schema.DatasetConfig:
        for seed, name in enumerate(("a.jpg", "b.jpg")):
            write_image(tmp_path / "train" / name, seed=seed)
        content = {
            "images": [
                {"id": 7, "file_name": "a.jpg", "height": 40, "width": 60},
                {"id": 9, "file_name": "b.jpg", "height": 40, "width": 60},
            ],
            "categories": [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}],
            "annotations": list(annotations),
        } | {key: value for key, value in changes.items() if key != "class_names"}
        (tmp_path / "train.json").write_text(json.dumps(content))
        return schema.DatasetConfig(
            dataset="toy",
            format="coco",
            data_dir=str(tmp_path),
            train=schema.SplitConfig(annotations=("train.json",), images="train"),
            class_names=changes.get("class_names"),
        )

    return write


@pytest.fixture
def voc(tmp_path: Path, write_image: Callable[..., Path]) -> Callable[..., schema.DatasetConfig]:
    """Writes VOC images of 40 x 60 pixels from `files`, stem -> content of <annotation>. Default list:
    trainval.txt with all of them. Returns the dataset section."""

    def write(
        files: dict[str, str], lists: dict[str, str] | None = None, **keys: Any
    ) -> schema.DatasetConfig:
        for folder in ("Annotations", "ImageSets/Main"):
            (tmp_path / "VOC2007" / folder).mkdir(parents=True, exist_ok=True)
        for seed, (stem, content) in enumerate(files.items()):
            write_image(tmp_path / "VOC2007" / "JPEGImages" / f"{stem}.jpg", seed=seed)
            text = f"<annotation>{content}</annotation>"
            (tmp_path / "VOC2007" / "Annotations" / f"{stem}.xml").write_text(text)
        for name, text in (lists or {"trainval": "\n".join(files)}).items():
            (tmp_path / "VOC2007" / "ImageSets" / "Main" / f"{name}.txt").write_bytes(text.encode())
        splits = {
            "train": {"annotations": ["VOC2007/ImageSets/Main/trainval.txt"]},
            "val": {"annotations": ["VOC2007/ImageSets/Main/test.txt"]},
        }
        return schema.DatasetConfig.model_validate(
            {"dataset": "toy", "format": "voc", "data_dir": str(tmp_path)} | splits | keys
        )

    return write
