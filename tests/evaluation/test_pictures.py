# SPDX-License-Identifier: Apache-2.0
"""Pictures of detections beside the ground truth."""

import cv2
import numpy as np

from pointdet.drawing import contact_sheet, draw_annotation, draw_detections
from pointdet.evaluation.pictures import write_pictures
from pointdet.inference.sinks import save_image
from pointdet.structures import Annotation, Dataset, Detections, Record

NAMES = ("cat", "dog")
TRUTH = Annotation(
    np.array([[5, 20, 60, 90], [50, 30, 90, 70]], np.float32),
    np.array([0, 1]),
    np.array([False, True]),
    np.zeros(2, np.float32),
)
FOUND = Detections(
    np.array([[10, 30, 70, 90], [5, 5, 20, 20]], np.float32),
    np.array([1, 0]),
    np.array([0.9, 0.1], np.float32),
)


def test_ground_truth_is_beside_the_detections(tmp_path):
    image = np.full((100, 120, 3), 128, np.uint8)
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "x.png"), image)
    (tmp_path / "b" / "x.png").write_bytes(b"no image")
    records = tuple(Record(7, str(tmp_path / n / "x.png"), 100, 120, TRUTH) for n in ("a", "b", "c"))
    dataset = Dataset("test", records, NAMES, (1, 2))
    folder = tmp_path / "run" / "debug"
    assert write_pictures(folder, dataset, [FOUND] * 3, 0.3, 2) == 1
    assert write_pictures(folder, dataset, [FOUND] * 3, 0.3, 9) == 2
    assert sorted(path.name for path in folder.iterdir()) == ["000000_x.jpg", "000002_x.jpg"]

    expected = [draw_annotation(image, TRUTH, NAMES), draw_detections(image, FOUND, NAMES, 0.3)]
    for order, same in ((expected, True), (expected[::-1], False)):
        save_image(tmp_path / "expected.jpg", contact_sheet(order, 2))
        written = (folder / "000000_x.jpg").read_bytes()
        assert (written == (tmp_path / "expected.jpg").read_bytes()) == same


def test_ignored_objects_are_named():
    image = np.full((100, 120, 3), 128, np.uint8)
    marked, plain = (
        draw_annotation(
            image, Annotation(TRUTH.boxes, TRUTH.labels, np.array([False, ignored]), TRUTH.areas), NAMES
        )
        for ignored in (True, False)
    )
    assert (marked != plain).any() and (plain != image).any()
