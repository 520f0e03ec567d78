# SPDX-License-Identifier: Apache-2.0
"""Soft-NMS (Bodla et al., 2017), with the merging of boxes of the published CornerNet code. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pointdet.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from pointdet.config.detectors import DetectorConfig
from pointdet.structures import Detections

Rows = Float32Array  # (N, 7): box, score, scores of the two corners


@dataclass(frozen=True)
class SoftNms:
    """Soft-NMS: each selected detection, best first, decays the scores of those that overlap it, per class.

    For the IoU, sides are x2 - x1 + 1, as in the published code.
    """

    decay: Literal["gaussian", "linear", "hard"] = "gaussian"
    sigma: float = 0.5  # gaussian: scores are multiplied by exp(-iou^2 / sigma)
    iou_threshold: float = 0.5  # linear, hard: above it scores are multiplied by 1 - iou, or by 0
    score_threshold: float = 0.001  # detections whose score decays below it are dropped
    merge_exponent: float = 0.0
    """If above 0, each corner of a selected box becomes a weighted mean of itself and the corners of the
    boxes that it decays. A weight is the corner score times (1 - decay factor) ** merge_exponent."""
    published: bool = False
    """Reproduces the results of the published CornerNet code exactly, with its errors: rows of dropped
    detections stay as copies of other detections, and corners are merged with the scores of other boxes."""

    @staticmethod
    def of(detector: DetectorConfig, merge_exponent: float = 0.0, published: bool = False) -> SoftNms:
        """The soft-NMS of a configuration."""
        return SoftNms(
            detector.suppression,
            detector.nms_sigma,
            detector.nms_threshold,
            merge_exponent=merge_exponent,
            published=published,
        )

    def __call__(self, found: Detections, count: int) -> Detections:
        """The `count` best detections after suppression, best first. Boxes are in pixels."""
        if self.published:
            classes = [found[found.labels == label] for label in np.unique(found.labels)]
            return Detections.join([self._published(each) for each in classes]).best(count)
        found = found[np.argsort(found.labels, kind="stable")]  # each class is a slice
        start = np.searchsorted(found.labels, found.labels, "left").tolist()
        stop = np.searchsorted(found.labels, found.labels, "right").tolist()
        boxes = np.ascontiguousarray(found.boxes.T, np.float64)
        scores = found.scores.copy()  # -1 for detections that are selected or dropped
        selected: list[int] = []
        selected_scores: list[np.float32] = []
        merged = []
        # Scores only decrease, so the best of all classes is also the next one of its own class.
        while len(selected) < min(count, len(found)):
            best = int(scores.argmax())
            if scores[best] < 0:
                break
            selected.append(best)
            selected_scores.append(scores[best])
            scores[best] = -1
            peers = slice(start[best], stop[best])
            iou = _overlaps(boxes[:, best], boxes[:, peers])
            factors = self._factors(iou)
            if self.merge_exponent:
                assert found.corner_scores is not None
                weights = np.where(scores[peers] < 0, 0.0, (1 - factors) ** self.merge_exponent)
                weights[best - start[best]] = 1
                merged.append(_mean_box(boxes[:, peers], found.corner_scores[peers].T * weights))
            decayed = scores[peers] * factors
            decayed[(iou > 0) & (decayed < self.score_threshold)] = -1
            scores[peers] = decayed
        kept = found[np.array(selected, np.int64)]
        kept_boxes = np.array(merged, np.float32) if merged else kept.boxes
        return Detections(kept_boxes, kept.labels, np.array(selected_scores, np.float32))

    def _factors(self, iou: Float64Array) -> Float64Array:
        """Factors on the scores of boxes with these overlaps."""
        if self.decay == "gaussian":
            factors: Float64Array = np.exp(-(iou**2) / self.sigma)
            return factors
        return np.where(iou > self.iou_threshold, 1 - iou if self.decay == "linear" else 0.0, 1.0)

    def _published(self, found: Detections) -> Detections:
        """The result of the published code for one class: all rows of its table, also the dropped ones."""
        corner_scores = np.zeros((len(found), 2)) if found.corner_scores is None else found.corner_scores
        rows: Rows = np.column_stack([found.boxes, found.scores, corner_scores]).astype(np.float32)
        first, live = 0, len(rows)
        while first < live:
            best = first + int(rows[first:live, 4].argmax())
            rows[[first, best], :5] = rows[[best, first], :5]  # without the corner scores, as published
            boxes = rows[first:live, :4].T.astype(np.float64)
            iou = _overlaps(boxes[:, 0], boxes)
            factors = self._factors(iou)
            decayed = (rows[first:live, 4] * factors).astype(np.float32)
            dropped = (iou > 0) & (decayed < self.score_threshold)
            decayed[0], dropped[0] = rows[first, 4], False
            live_count, index = _remove_dropped(rows[first:live, :5], decayed, dropped)
            if self.merge_exponent:
                weights = (1 - factors) ** self.merge_exponent
                weights[0] = 1
                rows[first, :4] = _mean_box(boxes, rows[first + index, 5:].T * weights)
            live = first + live_count
            first += 1
        return Detections(rows[:, :4], found.labels, rows[:, 4])


def _overlaps(box: Float64Array, others: Float64Array) -> Float64Array:
    """geometry.overlaps with border 1, for one box (4,) and others (4, N), which takes half the time."""
    low, high = np.maximum(box[:2, None], others[:2]), np.minimum(box[2:, None], others[2:])
    sides = np.maximum(high - low + 1, 0)
    common = sides[0] * sides[1]
    own, theirs = box[2:] - box[:2] + 1, others[2:] - others[:2] + 1
    union = own[0] * own[1] + theirs[0] * theirs[1] - common
    iou: Float64Array = np.divide(common, union, out=np.zeros_like(common), where=common > 0)
    return iou


def _mean_box(boxes: Float64Array, weights: Float64Array) -> Float64Array:
    """(4,): weighted means of the corners of boxes (4, N), with weights (2, N)."""
    sums = boxes.reshape(2, 2, -1) @ weights[:, :, None]
    mean: Float64Array = (sums[..., 0] / weights.sum(axis=1)[:, None]).reshape(4)
    return mean


def _remove_dropped(rows: Rows, decayed: Float32Array, dropped: BoolArray) -> tuple[int, Int64Array]:
    """Set the decayed scores and replace each dropped row by the last live row, as in the published code.

    Rows after the live ones keep their old scores. Returns the number of live rows and, for each row, the
    position at which the loop of the published code reads it.
    """
    live, index = len(rows), np.arange(len(rows))
    for position in np.flatnonzero(dropped).tolist():
        while position < live and dropped[position]:
            rows[position, 4] = decayed[position]
            live -= 1
            rows[position], decayed[position], dropped[position] = rows[live], decayed[live], dropped[live]
            index[live] = position
    rows[:live, 4] = decayed[:live]
    return live, index
