# SPDX-License-Identifier: Apache-2.0
"""Soft-NMS against golden tables, a loop over boxes, and values calculated by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pointdet.structures import Detections
from pointdet.suppression import SoftNms

CASES = {
    "gaussian": SoftNms(),
    "gaussian_sigma01": SoftNms(sigma=0.1),
    "gaussian_thr": SoftNms(score_threshold=0.2),
    "linear": SoftNms("linear"),
    "linear03": SoftNms("linear", iou_threshold=0.3),
    "hard": SoftNms("hard"),
    "merge_gaussian6": SoftNms(merge_exponent=6),
    "merge_gaussian8": SoftNms(merge_exponent=8),
    "merge_gaussian10": SoftNms(merge_exponent=10),
    "merge_linear8": SoftNms("linear", merge_exponent=8),
    "merge_hard8": SoftNms("hard", merge_exponent=8),
}
THREE = np.array(
    [
        [10, 10, 50, 50, 0.8, 0.7, 0.9],
        [12, 10, 52, 48, 0.9, 0.95, 0.85],
        [100, 100, 150, 160, 0.4, 0.5, 0.3],
    ],
    np.float32,
)


def detections(rows, labels=None):
    """Detections of rows x1 y1 x2 y2 score and corner scores; of one class if no labels are given."""
    labels = np.zeros(len(rows), np.int64) if labels is None else labels
    return Detections(rows[:, :4], labels, rows[:, 4], rows[:, 5:])


def published(suppress):
    return SoftNms(
        suppress.decay,
        suppress.sigma,
        suppress.iou_threshold,
        suppress.score_threshold,
        suppress.merge_exponent,
        True,
    )


def random_rows(count, seed=0, side=60.0):
    random = np.random.default_rng(seed)
    first = random.uniform(0, side, (count, 2))
    boxes = np.concatenate([first, first + random.uniform(1, side / 2, (count, 2))], axis=1)
    corner_scores = random.uniform(0.01, 1, (count, 2))
    return np.column_stack([boxes, corner_scores.mean(axis=1), corner_scores]).astype(np.float32)


def reference(suppress, rows):
    """Rows x1 y1 x2 y2 score for one class, from a loop over pairs."""
    rows, result = [row.astype(np.float64) for row in rows], []
    while rows:
        best = rows.pop(int(np.argmax([row[4] for row in rows])))
        sums, total = best[:4] * best[[5, 5, 6, 6]], best[[5, 5, 6, 6]].copy()
        left = []
        for row in rows:
            width = min(best[2], row[2]) - max(best[0], row[0]) + 1
            height = min(best[3], row[3]) - max(best[1], row[1]) + 1
            if width <= 0 or height <= 0:
                left.append(row)
                continue
            areas = [(r[2] - r[0] + 1) * (r[3] - r[1] + 1) for r in (best, row)]
            iou = width * height / (sum(areas) - width * height)
            factor = {
                "gaussian": np.exp(-(iou**2) / suppress.sigma),
                "linear": 1 - iou if iou > suppress.iou_threshold else 1.0,
                "hard": 0.0 if iou > suppress.iou_threshold else 1.0,
            }[suppress.decay]
            weights = (1 - factor) ** suppress.merge_exponent * row[[5, 5, 6, 6]]
            sums, total = sums + row[:4] * weights, total + weights
            row[4] *= factor
            if row[4] >= suppress.score_threshold:
                left.append(row)
        box = sums / total if suppress.merge_exponent else best[:4]
        result.append([*box, best[4]])
        rows = left
    return np.array(result)


def check(found, expected, count=None):
    np.testing.assert_allclose(found.scores, expected[:count, 4], rtol=1e-5)
    np.testing.assert_allclose(found.boxes, expected[:count, :4], rtol=1e-5, atol=1e-5)
    assert (found.boxes.dtype, found.scores.dtype) == (np.float32, np.float32)


@pytest.mark.parametrize("case", CASES)
def test_published_tables_are_reproduced(case, golden):
    arrays = golden("soft_nms.npz")
    expected = arrays[f"{case}/rows"]
    found = published(CASES[case])(detections(arrays["boxes"]), 40)
    check(found, expected[np.argsort(-expected[:, 4], kind="stable")])


@pytest.mark.parametrize("case", [case for case in CASES if "merge" not in case])
def test_kept_rows_of_published_tables_are_reproduced(case, golden):
    arrays = golden("soft_nms.npz")
    found = CASES[case](detections(arrays["boxes"]), 40)
    check(found, arrays[f"{case}/rows"][: arrays[f"{case}/kept"]])


@pytest.mark.parametrize("count", [1, 25, 200])
@pytest.mark.parametrize("suppress", CASES.values(), ids=CASES)
def test_equals_a_loop(suppress, count):
    rows = random_rows(60)
    check(suppress(detections(rows), count), reference(suppress, rows), count)


@pytest.mark.parametrize("suppress", CASES.values(), ids=CASES)
def test_classes_are_suppressed_separately(suppress):
    rows, labels = random_rows(90, seed=1), np.random.default_rng(2).integers(0, 4, 90)
    by_class = [reference(suppress, rows[labels == label]) for label in range(4)]
    expected = np.concatenate(by_class)
    order = np.argsort(-expected[:, 4], kind="stable")[:50]
    found = suppress(detections(rows, labels), 50)
    check(found, expected[order])
    np.testing.assert_array_equal(found.labels, np.repeat(range(4), [len(each) for each in by_class])[order])


@pytest.mark.parametrize(
    ("suppress", "first"),
    [
        (SoftNms(), [12, 10, 52, 48]),
        (SoftNms(merge_exponent=10), [11.89, 10, 51.8456, 48.1544]),
        (SoftNms(merge_exponent=10, published=True), [11.8063, 10, 51.8611, 48.1389]),
    ],
    ids=["not merged", "merged", "merged as published"],
)
def test_three_boxes(suppress, first):
    found = suppress(detections(THREE), 100)
    np.testing.assert_allclose(found.scores, [0.9, 0.4, 0.1793], atol=5e-5)
    np.testing.assert_allclose(found.boxes[0], first, atol=5e-5)
    np.testing.assert_array_equal(found.boxes[1], THREE[2, :4])


@pytest.mark.parametrize("is_published", [False, True])
def test_no_detection_and_one_detection(is_published):
    suppress = SoftNms(merge_exponent=10, published=is_published)
    assert len(suppress(detections(np.zeros((0, 7), np.float32)), 10)) == 0
    check(suppress(detections(THREE[:1]), 10), THREE[:1])


def test_equal_scores_keep_their_order_and_the_input_is_unchanged():
    rows = np.tile(THREE[2], (5, 1))
    rows[:, [0, 2]] += 200 * np.arange(5)[:, None]
    found, before = detections(rows), rows.copy()
    np.testing.assert_array_equal(SoftNms()(found, 4).boxes, rows[:4, :4])
    np.testing.assert_array_equal(rows, before)


def test_only_merging_requires_corner_scores():
    found = Detections(THREE[:, :4], np.zeros(3, np.int64), THREE[:, 4])
    assert len(SoftNms()(found, 3)) == 3
    assert SoftNms(published=True)(found, 3).scores[0] == np.float32(0.9)


def test_low_scores_without_overlap_are_kept():
    rows = THREE.copy()
    rows[2, 4] = 1e-4
    assert SoftNms()(detections(rows), 3).scores[-1] == np.float32(1e-4)


@pytest.mark.parametrize("is_published", [False, True])
def test_boxes_without_area_do_not_decay_other_boxes_and_are_not_decayed(is_published):
    rows = np.repeat(THREE[:1], 4, axis=0)
    rows[1:, 2] = rows[1:, 0] - np.float32([[1], [1], [30]])[:, 0]
    rows[:, 4] = 0.9, 0.8, 0.7, 0.6
    found = SoftNms(published=is_published)(detections(rows), 4)
    np.testing.assert_array_equal(found.scores, rows[:, 4])
