# SPDX-License-Identifier: Apache-2.0
"""Soft-NMS against golden tables, a plain loop over boxes, and numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pointdet.structures import Detections
from pointdet.suppression import SoftNms

CASES = {
    "gaussian": SoftNms(),
    "gaussian_sigma01": SoftNms(sigma=0.1),
    "gaussian_thr": SoftNms(floor=0.2),
    "linear": SoftNms("linear"),
    "linear03": SoftNms("linear", overlap=0.3),
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
    """Detections of rows x1 y1 x2 y2 score and corner scores; all of one class where no labels are given."""
    labels = np.zeros(len(rows), np.int64) if labels is None else labels
    return Detections(rows[:, :4], labels, rows[:, 4], rows[:, 5:])


def published(suppress):
    return SoftNms(
        suppress.decay, suppress.sigma, suppress.overlap, suppress.floor, suppress.merge_exponent, True
    )


def random_rows(count, seed=0, side=60.0):
    random = np.random.default_rng(seed)
    first = random.uniform(0, side, (count, 2))
    boxes = np.concatenate([first, first + random.uniform(1, side / 2, (count, 2))], axis=1)
    corner_scores = random.uniform(0.01, 1, (count, 2))
    return np.column_stack([boxes, corner_scores.mean(axis=1), corner_scores]).astype(np.float32)


def plain(suppress, rows):
    """Rows x1 y1 x2 y2 score as a loop over pairs gives them, for one class."""
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
                "linear": 1 - iou if iou > suppress.overlap else 1.0,
                "hard": 0.0 if iou > suppress.overlap else 1.0,
            }[suppress.decay]
            pull = (1 - factor) ** suppress.merge_exponent * row[[5, 5, 6, 6]]
            sums, total = sums + row[:4] * pull, total + pull
            row[4] *= factor
            if row[4] >= suppress.floor:
                left.append(row)
        place = sums / total if suppress.merge_exponent else best[:4]
        result.append([*place, best[4]])
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
def test_what_the_published_routine_means_to_keep(case, golden):
    arrays = golden("soft_nms.npz")
    found = CASES[case](detections(arrays["boxes"]), 40)
    check(found, arrays[f"{case}/rows"][: arrays[f"{case}/kept"]])


@pytest.mark.parametrize("count", [1, 25, 200])
@pytest.mark.parametrize("suppress", CASES.values(), ids=CASES)
def test_equals_a_plain_loop(suppress, count):
    rows = random_rows(60)
    check(suppress(detections(rows), count), plain(suppress, rows), count)


@pytest.mark.parametrize("suppress", CASES.values(), ids=CASES)
def test_classes_do_not_see_each_other(suppress):
    rows, labels = random_rows(90, seed=1), np.random.default_rng(2).integers(0, 4, 90)
    alone = [plain(suppress, rows[labels == label]) for label in range(4)]
    expected = np.concatenate(alone)
    order = np.argsort(-expected[:, 4], kind="stable")[:50]
    found = suppress(detections(rows, labels), 50)
    check(found, expected[order])
    np.testing.assert_array_equal(found.labels, np.repeat(range(4), [len(each) for each in alone])[order])


@pytest.mark.parametrize(
    ("suppress", "first"),
    [
        (SoftNms(), [12, 10, 52, 48]),
        (SoftNms(merge_exponent=10), [11.89, 10, 51.8456, 48.1544]),
        (SoftNms(merge_exponent=10, published=True), [11.8063, 10, 51.8611, 48.1389]),
    ],
    ids=["alone", "merged", "merged as published"],
)
def test_three_boxes(suppress, first):
    found = suppress(detections(THREE), 100)
    np.testing.assert_allclose(found.scores, [0.9, 0.4, 0.1793], atol=5e-5)
    np.testing.assert_allclose(found.boxes[0], first, atol=5e-5)
    np.testing.assert_array_equal(found.boxes[1], THREE[2, :4])


@pytest.mark.parametrize("is_published", [False, True])
def test_nothing_and_one(is_published):
    suppress = SoftNms(merge_exponent=10, published=is_published)
    assert len(suppress(detections(np.zeros((0, 7), np.float32)), 10)) == 0
    check(suppress(detections(THREE[:1]), 10), THREE[:1])


def test_equal_scores_keep_their_order_and_the_input_its_values():
    rows = np.tile(THREE[2], (5, 1))
    rows[:, [0, 2]] += 200 * np.arange(5)[:, None]
    found, before = detections(rows), rows.copy()
    np.testing.assert_array_equal(SoftNms()(found, 4).boxes, rows[:4, :4])
    np.testing.assert_array_equal(rows, before)


def test_corner_scores_are_needed_for_merging_only():
    found = Detections(THREE[:, :4], np.zeros(3, np.int64), THREE[:, 4])
    assert len(SoftNms()(found, 3)) == 3
    assert SoftNms(published=True)(found, 3).scores[0] == np.float32(0.9)


def test_low_scores_that_nothing_overlaps_stay():
    rows = THREE.copy()
    rows[2, 4] = 1e-4
    assert SoftNms()(detections(rows), 3).scores[-1] == np.float32(1e-4)


@pytest.mark.parametrize("is_published", [False, True])
def test_boxes_without_area_neither_decay_nor_are_decayed(is_published):
    rows = np.repeat(THREE[:1], 4, axis=0)
    rows[1:, 2] = rows[1:, 0] - np.float32([[1], [1], [30]])[:, 0]
    rows[:, 4] = 0.9, 0.8, 0.7, 0.6
    found = SoftNms(published=is_published)(detections(rows), 4)
    np.testing.assert_array_equal(found.scores, rows[:, 4])
