# SPDX-License-Identifier: Apache-2.0
"""Annotation and Detections: types, selection, order, concatenation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pointdet.structures import Annotation, Detections


def test_annotation_of_lists():
    annotation = Annotation.of([[1, 2, 11, 7], [0, 0, 4, 4]], [3, 0])
    assert len(annotation) == 2
    assert annotation.boxes.dtype == annotation.areas.dtype == np.float32
    assert annotation.labels.dtype == np.int64
    assert annotation.areas.tolist() == [50, 16]
    assert not annotation.ignore.any()


def test_annotation_without_objects():
    annotation = Annotation.of([], [])
    assert len(annotation) == 0
    assert annotation.boxes.shape == (0, 4)
    assert annotation.labels.shape == annotation.ignore.shape == annotation.areas.shape == (0,)


def test_annotation_is_indexed_by_mask_and_index_array():
    annotation = Annotation.of([[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3]], [5, 6, 7])
    for chosen in (annotation[annotation.labels != 6], annotation[np.array([0, 2])]):
        assert chosen.labels.tolist() == [5, 7]
        assert chosen.areas.tolist() == [1, 9]
        assert chosen.boxes[:, 2].tolist() == [1, 3]
        assert len(chosen.ignore) == 2


def detections(labels, scores):
    boxes = np.arange(4 * len(labels), dtype=np.float32).reshape(-1, 4)
    return Detections(boxes, np.array(labels, np.int64), np.array(scores, np.float32))


def test_best_sorts_by_score_and_is_stable():
    best = detections([0, 1, 2, 3, 4], [0.5, 0.25, 0.5, 0.75, 0.5]).best(4)
    assert best.labels.tolist() == [3, 0, 2, 4]
    assert best.scores.tolist() == [0.75, 0.5, 0.5, 0.5]
    assert best.boxes[:, 0].tolist() == [12, 0, 8, 16]


def test_best_of_fewer_than_count():
    assert len(detections([1], [0.5]).best(100)) == 1
    assert len(detections([], []).best(100)) == 0


def test_join():
    joined = Detections.join([detections([1], [0.5]), detections([], []), detections([2, 3], [0.25, 1])])
    assert joined.labels.tolist() == [1, 2, 3]
    assert joined.scores.tolist() == [0.5, 0.25, 1]
    assert joined.boxes.shape == (3, 4)


def test_corner_scores_are_kept_if_all_parts_have_them():
    corner_scores = np.arange(4, dtype=np.float32).reshape(2, 2)
    found = replace(detections([1, 2], [0.5, 0.75]), corner_scores=corner_scores)
    assert found.best(1).corner_scores.tolist() == [[2, 3]]
    assert Detections.join([found, found[:1]]).corner_scores.tolist() == [[0, 1], [2, 3], [0, 1]]
    assert Detections.join([found, detections([1], [0.5])]).corner_scores is None


def test_join_of_no_parts_has_the_same_types():
    empty = Detections.join([])
    assert empty.boxes.shape == (0, 4)
    assert empty.boxes.dtype == empty.scores.dtype == np.float32
    assert empty.labels.dtype == np.int64
