# SPDX-License-Identifier: Apache-2.0
"""The report on a dataset: counts and unusable images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pointdet.data.check import check_dataset
from pointdet.structures import Annotation, Dataset, Record


def test_report(tmp_path: Path, write_image: Callable[..., Path]) -> None:
    def record(number: int, name: str, annotation: Annotation, height: int = 200) -> Record:
        return Record(number, str(write_image(tmp_path / name, 200, 300)), height, 300, annotation)

    crowd = Annotation(
        boxes=np.array([[0, 0, 100, 100], [0, 0, 100, 100], [0, 0, 50, 50]], np.float32),
        labels=np.array([0, 0, 1]),
        ignore=np.array([False, False, True]),
        areas=np.array([10000, 10000, 2500], np.float32),
    )
    records = (
        record(0, "a.png", crowd),
        record(1, "b.png", Annotation.of([[5, 5, 15, 25]], [0])),
        record(2, "b.png", Annotation.of([], [])),
        record(3, "c.png", Annotation.of([], []), height=100),
        record(4, "d.png", Annotation.of([], [])),
    )
    (tmp_path / "d.png").write_bytes(b"")
    report = check_dataset(Dataset("toy_train", records, ("cat", "dog", "unicorn"), (1, 2, 3)))
    cat, dog, unicorn = report.classes
    assert (cat.images, cat.objects, cat.ignored, cat.small, cat.medium, cat.large) == (2, 3, 0, 1, 0, 2)
    assert (dog.images, dog.objects, dog.ignored, dog.small, dog.medium, dog.large) == (1, 1, 1, 0, 1, 0)
    assert unicorn.objects == 0
    assert report.images == 5
    assert report.without_objects == 3
    assert report.most_objects == 3
    assert report.duplicate_images == 1
    assert report.duplicate_objects == 1
    assert report.sides[1] == 75
    assert len(report.faults) == 2
    assert "c.png is 200 x 300" in report.faults[0] and "d.png" in report.faults[1]

    text = str(report)
    assert text.startswith("toy_train: 5 images")
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}
    assert rows["cat"] == ["2", "3", "0", "1", "0", "2"]
    assert rows["all"] == ["2", "4", "1", "1", "1", "2"]
    assert "classes without objects: unicorn" in text
    assert "images that cannot be used: 2" in text and "d.png" in text
