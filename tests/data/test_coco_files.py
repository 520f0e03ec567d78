# SPDX-License-Identifier: Apache-2.0
"""Several COCO files in one split."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pointdet.config.load import override, validate
from pointdet.config.schema import DatasetConfig
from pointdet.data.catalogue import read_dataset
from pointdet.errors import PointDetError

CLASSES = [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, write_image: Callable[..., Path]) -> Write:
    """write("a", 7): a.json with one image a/7.jpg of this id, and a dog in it."""

    def write(name: str, number: int, categories: Any = CLASSES, folder: str | None = None) -> Path:
        write_image(tmp_path / (folder or name) / f"{number}.jpg", seed=number)
        content = {
            "images": [{"id": number, "file_name": f"{number}.jpg", "height": 40, "width": 60}],
            "categories": categories,
            "annotations": [
                {"image_id": number, "category_id": entry["id"], "bbox": [entry["id"], 2, 10, 20]}
                for entry in categories
            ],
        }
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        return path

    return write


def config(tmp_path: Path, files: str = "ab", images: Any = ("a", "b"), **more: Any) -> DatasetConfig:
    split = {"annotations": [f"{name}.json" for name in files], "images": images}
    return DatasetConfig(dataset="toy", format="coco", data_dir=str(tmp_path), train=split, **more)


def test_images_and_objects_are_joined(
    write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The second file numbers the same classes otherwise: labels follow the names."""
    write("a", 7)
    write("b", 3, [{"id": 1, "name": "dog"}, {"id": 9, "name": "cat"}])
    dataset = read_dataset(config(tmp_path), "train")
    assert (dataset.class_names, dataset.category_ids) == (("cat", "dog"), (2, 5))
    assert [(r.image_id, r.image_path) for r in dataset.records] == [
        (7, f"{tmp_path}/a/7.jpg"),
        (3, f"{tmp_path}/b/3.jpg"),
    ]
    first, second = (record.annotation for record in dataset.records)
    np.testing.assert_array_equal(first.boxes[:, 0], [5, 2])
    np.testing.assert_array_equal(first.labels, [1, 0])
    np.testing.assert_array_equal(second.boxes[:, 0], [1, 9])
    np.testing.assert_array_equal(second.labels, [1, 0])
    assert not caplog.text
    pickle.dumps(dataset)


def test_one_folder_for_all_files(write: Write, tmp_path: Path) -> None:
    write("a", 7, folder="images")
    write("b", 3, folder="images")
    whole = validate({"dataset": config(tmp_path).model_dump()}, "the test")
    dataset = override(whole, ["dataset.train.images=images"]).dataset
    assert dataset.train is not None and dataset.train.images == ("images",)
    assert [r.image_path for r in read_dataset(dataset, "train").records] == [
        f"{tmp_path}/images/7.jpg",
        f"{tmp_path}/images/3.jpg",
    ]


def test_equal_ids_of_different_images(
    write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write("a", 7)
    write("b", 7)
    assert [r.image_id for r in read_dataset(config(tmp_path), "train").records] == [1, 2]
    assert "1 image ids occur in several annotation files: the images are numbered from 1" in caplog.text


def test_an_image_in_two_files(write: Write, tmp_path: Path) -> None:
    write("a", 7, folder="images")
    write("b", 7, folder="images")
    with pytest.raises(PointDetError, match=r"7.jpg is in both .*a.json and .*b.json; remove it from one"):
        read_dataset(config(tmp_path, images="images"), "train")


def test_classes_that_differ(write: Write, tmp_path: Path) -> None:
    write("a", 7)
    write("b", 3, [*CLASSES, {"id": 8, "name": "bird"}])
    for files in ("ab", "ba"):
        with pytest.raises(PointDetError, match="other classes than ..json .*'bird'.*dataset.class_names"):
            read_dataset(config(tmp_path, files, list(files)), "train")
    dataset = read_dataset(config(tmp_path, class_names=["dog"]), "train")
    assert [r.annotation.labels.tolist() for r in dataset.records] == [[0], [0]]
    assert dataset.category_ids == (5,)
    with pytest.raises(PointDetError, match="a.json has no class 'bird'"):
        read_dataset(config(tmp_path, class_names=["bird"]), "train")


@pytest.mark.parametrize("images", [None, [], ["a", "b", "c"]])
def test_number_of_folders(write: Write, tmp_path: Path, images: Any) -> None:
    with pytest.raises(PointDetError, match="one folder for each annotation file .given: a.json, b.json"):
        read_dataset(config(tmp_path, images=images), "train")
