# SPDX-License-Identifier: Apache-2.0
"""The synthetic dataset is reproducible, is valid COCO, and its boxes match the pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pointdet.config import schema
from pointdet.data import shapes
from pointdet.data.catalogue import read_dataset


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed, images in (("a", 1, 4), ("b", 1, 4), ("c", 2, 4), ("d", 1, 2)):
        shapes.draw_shapes(tmp_path / name, images, seed, height=64, width=96, split="train")
    a, b, c, d = (files(tmp_path / name) for name in "abcd")
    assert a == b
    assert a["train/000000.jpg"] != c["train/000000.jpg"]
    # A picture does not depend on the number of pictures.
    assert a["train/000001.jpg"] == d["train/000001.jpg"]


def test_dataset_is_valid_coco(tmp_path: Path) -> None:
    shapes.draw_shapes(tmp_path, 30, seed=0, height=64, width=96, split="val")
    split = schema.SplitConfig(annotations=("annotations/instances_val.json",), images="val")
    config = schema.DatasetConfig(dataset="shapes", format="coco", data_dir=str(tmp_path), val=split)
    dataset = read_dataset(config, "val")
    assert dataset.class_names == ("circle", "square", "triangle", "star")
    assert len(dataset) == 30
    assert {(record.height, record.width) for record in dataset.records} == {(64, 96)}
    labels = np.concatenate([record.annotation.labels for record in dataset.records])
    assert set(labels.tolist()) == {0, 1, 2, 3}


def test_boxes_are_tight_around_the_drawn_pixels() -> None:
    sides = []
    for seed in range(40):
        _, drawn = shapes.draw_picture(np.random.default_rng(seed), 128, 160)
        for shape in drawn:
            y, x = np.nonzero(shape.mask > 127)
            x1, y1, x2, y2 = shape.box_image
            # Thin tips cover less than half of their pixels.
            np.testing.assert_allclose([x.min(), y.min(), x.max(), y.max()], [x1, y1, x2, y2], atol=2)
            assert x1 >= 0 and y1 >= 0 and x2 <= 159 and y2 <= 127
            sides.append(max(x2 - x1, y2 - y1) + 1)
    assert 8 <= min(sides) < 16 and 55 < max(sides) <= 64.1


def test_mostly_hidden_objects_are_left_out() -> None:
    hidden = 0
    for seed in range(60):
        _, drawn = shapes.draw_picture(np.random.default_rng(seed), 128, 128)
        front = np.zeros((128, 128), bool)
        for shape in reversed(drawn):
            own = shape.mask > 127
            seen = np.count_nonzero(own & ~front) / np.count_nonzero(own)
            assert seen >= shapes.VISIBLE
            hidden += seen < 0.9
            front |= own
    assert hidden > 10  # shapes do cover each other
