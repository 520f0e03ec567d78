# SPDX-License-Identifier: Apache-2.0
"""Soft-NMS: of detections that overlap only the best keeps its score, and may take its place from all. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pointdet.structures import Detections

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float32]  # (N, 7): box, score, scores of the two corners


@dataclass(frozen=True)
class SoftNms:
    """Bodla et al., 2017: every detection taken, best first, decays the others of its class that overlap it.

    Overlaps count a box's last pixel, as the published routine does.
    """

    decay: Literal["gaussian", "linear", "hard"] = "gaussian"
    sigma: float = 0.5  # gaussian: scores are multiplied by exp(-iou^2 / sigma)
    overlap: float = 0.5  # linear, hard: above it they are multiplied by 1 - iou, or dropped
    floor: float = 0.001  # what decays below it is dropped
    merge_exponent: float = 0.0
    """Above 0, a corner taken moves to the mean of its own and those of the boxes it decays, weighted by the score of
    the corner and (1 - the factor of the decay) ** merge_exponent; needs corner scores."""
    published: bool = False
    """CornerNet's results to the last digit: copies of surviving detections stand where dropped ones were, and
    corners are merged with the scores of other boxes."""

    def __call__(self, found: Detections, count: int) -> Detections:
        """The `count` best detections after suppression, best first; boxes are in pixels."""
        if self.published:
            classes = [found[found.labels == label] for label in np.unique(found.labels)]
            return Detections.join([self._in_place(each) for each in classes]).best(count)
        found = found[np.argsort(found.labels, kind="stable")]  # each class is a slice
        start = np.searchsorted(found.labels, found.labels, "left").tolist()
        stop = np.searchsorted(found.labels, found.labels, "right").tolist()
        boxes = np.ascontiguousarray(found.boxes.T, np.float64)
        scores = found.scores.copy()  # -1 where the detection is taken or dropped
        taken: list[int] = []
        taken_scores: list[np.float32] = []
        merged = []
        # Scores only fall: taking the best of all classes until there are enough is what each class would do alone.
        while len(taken) < min(count, len(found)):
            best = int(scores.argmax())
            if scores[best] < 0:
                break
            taken.append(best)
            taken_scores.append(scores[best])
            scores[best] = -1
            peers = slice(start[best], stop[best])
            iou = _overlaps(boxes[:, best], boxes[:, peers])
            factors = self._factors(iou)
            if self.merge_exponent:
                assert found.corner_scores is not None
                pull = np.where(scores[peers] < 0, 0.0, (1 - factors) ** self.merge_exponent)
                pull[best - start[best]] = 1
                merged.append(_mean_box(boxes[:, peers], found.corner_scores[peers].T * pull))
            decayed = scores[peers] * factors
            decayed[(iou > 0) & (decayed < self.floor)] = -1
            scores[peers] = decayed
        kept = found[np.array(taken, np.int64)]
        places = np.array(merged, np.float32) if merged else kept.boxes
        return Detections(places, kept.labels, np.array(taken_scores, np.float32))

    def _factors(self, iou: Floats) -> Floats:
        """What the scores of boxes with that overlap are multiplied by."""
        if self.decay == "gaussian":
            factors: Floats = np.exp(-(iou**2) / self.sigma)
            return factors
        return np.where(iou > self.overlap, 1 - iou if self.decay == "linear" else 0.0, 1.0)

    def _in_place(self, found: Detections) -> Detections:
        """One class as the published routine leaves it: every row of its table, whether dropped or not."""
        corner_scores = np.zeros((len(found), 2)) if found.corner_scores is None else found.corner_scores
        rows: Rows = np.column_stack([found.boxes, found.scores, corner_scores]).astype(np.float32)
        first, live = 0, len(rows)
        while first < live:
            best = first + int(rows[first:live, 4].argmax())
            rows[[first, best], :5] = rows[[best, first], :5]  # but not the corner scores
            boxes = rows[first:live, :4].T.astype(np.float64)
            iou = _overlaps(boxes[:, 0], boxes)
            factors = self._factors(iou)
            decayed = (rows[first:live, 4] * factors).astype(np.float32)
            dropped = (iou > 0) & (decayed < self.floor)
            decayed[0], dropped[0] = rows[first, 4], False
            length, seen_at = _close_ranks(rows[first:live, :5], decayed, dropped)
            if self.merge_exponent:
                pull = (1 - factors) ** self.merge_exponent
                pull[0] = 1
                rows[first, :4] = _mean_box(boxes, rows[first + seen_at, 5:].T * pull)
            live = first + length
            first += 1
        return Detections(rows[:, :4], found.labels, rows[:, 4])


def _overlaps(box: Floats, others: Floats) -> Floats:
    """geometry.overlaps, the last pixel counted, of one box (4,) with others (4, N): laid out so, it takes half as long."""
    low, high = np.maximum(box[:2, None], others[:2]), np.minimum(box[2:, None], others[2:])
    sides = np.maximum(high - low + 1, 0)
    common = sides[0] * sides[1]
    own, theirs = box[2:] - box[:2] + 1, others[2:] - others[:2] + 1
    union = own[0] * own[1] + theirs[0] * theirs[1] - common
    iou: Floats = np.divide(common, union, out=np.zeros_like(common), where=common > 0)
    return iou


def _mean_box(boxes: Floats, weights: Floats) -> Floats:
    """(4,): the means of the corners of boxes (4, N) with weights (2, N)."""
    sums = boxes.reshape(2, 2, -1) @ weights[:, :, None]
    mean: Floats = (sums[..., 0] / weights.sum(axis=1)[:, None]).reshape(4)
    return mean


def _close_ranks(
    rows: Rows, decayed: npt.NDArray[np.float32], dropped: npt.NDArray[np.bool_]
) -> tuple[int, npt.NDArray[np.int64]]:
    """Walk down the table, give each row its decayed score, and put the last live row where one is dropped.

    What is left below the live rows keeps the score it had. Returns how many are live, and where the walk met each.
    """
    live, seen_at = len(rows), np.arange(len(rows))
    for place in np.flatnonzero(dropped).tolist():
        while place < live and dropped[place]:
            rows[place, 4] = decayed[place]
            live -= 1
            rows[place], decayed[place], dropped[place] = rows[live], decayed[live], dropped[live]
            seen_at[live] = place
    rows[:live, 4] = decayed[:live]
    return live, seen_at
