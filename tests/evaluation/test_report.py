# SPDX-License-Identifier: Apache-2.0
"""The table of the metrics, metrics.json and detections.json."""

import json
import math

import numpy as np
import pytest

from pointdet.errors import PointDetError
from pointdet.evaluation.metrics import COCO_NUMBERS, coco_metrics, false_discovery_rates, voc_metrics
from pointdet.evaluation.report import table, write_detections, write_metrics
from pointdet.files import write_text
from pointdet.structures import Annotation, Dataset, Detections, Record

DATASET = Dataset(
    name="made_test",
    records=(
        Record(7, "a.jpg", 480, 640, Annotation.of([[10, 10, 109, 109]], [0])),
        Record(3, "b.jpg", 480, 640, Annotation.of([[20, 20, 219, 219]], [0])),
    ),
    class_names=("traffic light", "cat"),
    category_ids=(10, 17),
)
FOUND = [
    Detections(
        np.array([[10, 10, 109, 109]], np.float32), np.array([0], np.int64), np.array([0.7], np.float32)
    ),
    Detections.join([]),
]


def test_table_of_voc():
    text = table(DATASET, "voc10", voc_metrics(DATASET, FOUND, "voc10"))
    assert text.splitlines() == [
        "made_test, 2 images: Pascal VOC 2010 mean AP (IoU above 0.5, area under the curve) in percent",
        "",
        "    AP",
        "  50.0",
        "",
        "class             AP",
        "traffic light   50.0",
        "cat                -",
        "",
        "No ground truth, so excluded from the means: cat.",
    ]


def test_table_of_coco_has_the_twelve_numbers_and_the_classes():
    lines = table(DATASET, "coco", coco_metrics(DATASET, FOUND)).splitlines()
    assert tuple(lines[2].split()) == COCO_NUMBERS
    assert lines[3].split()[3:5] == ["-", "-"]  # there are no small and no medium objects
    assert lines[5].split() == ["class", "AP", "AP50"]
    assert lines[6] == "traffic light   50.5   50.5"  # one of two objects: 51 of 101 recall points


def test_table_has_a_row_of_false_discovery_rates():
    metrics = coco_metrics(DATASET, FOUND) | false_discovery_rates(DATASET, FOUND)
    lines = table(DATASET, "coco", metrics).splitlines()
    assert tuple(lines[2].split()) == COCO_NUMBERS
    assert lines[4:9] == [
        "",
        "False discovery rates, FD: IoU 0.05 to 0.50, in percent",
        "",
        "    FD   FD05   FD25   FD50   FD75    FDs    FDm    FDl",
        "  49.5   49.5   49.5   49.5   49.5      -      -   49.5",
    ]
    assert lines[10].split() == ["class", "AP", "AP50"]


def test_metrics_file_is_json_without_nan(tmp_path):
    metrics = voc_metrics(DATASET, FOUND, "voc10")
    write_metrics(tmp_path / "deep" / "metrics.json", DATASET, "voc10", metrics)
    text = (tmp_path / "deep" / "metrics.json").read_text()
    written = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert written["dataset"] == "made_test" and written["images"] == 2 and written["metric"] == "voc10"
    assert math.isnan(metrics["AP/cat"]) and written["metrics"].pop("AP/cat") is None
    assert written["metrics"] == {"AP": 0.5, "AP/traffic light": 0.5}


def test_detections_file_has_ids_of_the_annotation_file_and_full_precision(tmp_path):
    path = tmp_path / "detections.json"
    write_detections(path, DATASET, FOUND)
    assert json.loads(path.read_text()) == [
        {"image_id": 7, "category_id": 10, "bbox": [10, 10, 99, 99], "score": float(np.float32(0.7))}
    ]
    write_detections(path, DATASET, [Detections.join([])] * 2)
    assert json.loads(path.read_text()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half \udc80")
    assert path.read_text() == "old"
    with pytest.raises(PointDetError, match=r"x\.json/y\.json"):
        write_text(path / "y.json", "new")


def test_control_characters_in_class_names_are_shown_escaped():
    dataset = Dataset("toy", (), ("\x1b[31mcat", "dog"), (1, 2))
    metrics = {"AP": 0.5, "AP/\x1b[31mcat": 0.25, "AP/dog": float("nan")}
    lines = table(dataset, "voc07", metrics).splitlines()
    assert r"\x1b[31mcat   25.0" in lines
    assert "\x1b" not in "".join(lines)
