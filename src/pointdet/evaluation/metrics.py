# SPDX-License-Identifier: Apache-2.0
"""AP as COCO (12 numbers) and Pascal VOC (2007 and 2010) define it, and false discovery rates; nothing is rounded.

A result is a flat ``dict[str, float]``: the means under their own names ("AP" is always the one that decides)
and ``AP/<class>`` for each class. NaN means: no ground truth to measure against.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from faster_coco_eval.core.coco import COCO
from faster_coco_eval.core.faster_eval_api import COCOeval_faster

from pointdet.geometry import overlaps
from pointdet.structures import Annotation, Dataset, Detections

Metrics = dict[str, float]
Floats = npt.NDArray[np.float64]

COCO_NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
FD_OVERLAPS = np.append(np.linspace(0.05, 0.5, 10), 0.75)  # FD is the mean over the first ten
FD_THRESHOLDS = {"FD05": 0, "FD25": 4, "FD50": 9, "FD75": 10}
AREAS = ("", "s", "m", "l")  # all, small (below 32 x 32), medium, large (above 96 x 96)
VOC_OVERLAP = 0.5


def measure(
    dataset: Dataset, detections: Sequence[Detections], metric: Literal["coco", "voc07", "voc10"]
) -> Metrics:
    """The metric that the configuration names (``dataset.metric``), of boxes_image in dataset order."""
    return coco_metrics(dataset, detections) if metric == "coco" else voc_metrics(dataset, detections, metric)


def coco_metrics(dataset: Dataset, detections: Sequence[Detections]) -> Metrics:
    """COCO's 12 box numbers (Lin et al., 2014), and AP and AP50 of each class, as pycocotools computes them.

    `detections` are boxes_image, one entry per record and in that order. Ignored objects count as crowds.
    """
    evaluation = _coco_evaluation(dataset, detections)
    evaluation.run()

    metrics = {name: _mean(number) for name, number in zip(COCO_NUMBERS, evaluation.stats, strict=True)}
    # (IoU threshold, recall, class in the order of ids, area range, detection limit); -1: no truth
    precision = evaluation.eval["precision"][..., 0, -1]
    column = {category: i for i, category in enumerate(sorted(dataset.category_ids))}
    for name, category in zip(dataset.class_names, dataset.category_ids, strict=True):
        metrics[f"AP/{name}"] = _mean(precision[:, :, column[category]])
        metrics[f"AP50/{name}"] = _mean(precision[0, :, column[category]])
    return metrics


def false_discovery_rates(dataset: Dataset, detections: Sequence[Detections]) -> Metrics:
    """How much of what is found is false (Duan et al., 2019, section 3.1): 1 - AP at low IoU thresholds.

    "FD" is the mean over IoU 0.05, 0.10 to 0.50; "FDs", "FDm", "FDl" are that for small, medium and large objects;
    "FD05", "FD25", "FD50" and "FD75" are those at one threshold. `detections` as for `coco_metrics`.
    """
    evaluation = _coco_evaluation(dataset, detections)
    evaluation.params.iouThrs = FD_OVERLAPS
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1]
    rates = {f"FD{area}": 1 - _mean(precision[:10, ..., i]) for i, area in enumerate(AREAS)}
    single = {name: 1 - _mean(precision[i, ..., 0]) for name, i in FD_THRESHOLDS.items()}
    return {"FD": rates.pop("FD"), **single, **rates}


def _coco_evaluation(dataset: Dataset, detections: Sequence[Detections]) -> COCOeval_faster:
    """Set up, and silent."""
    _check_length(dataset, detections)
    truth, found = COCO(_coco_truth(dataset)), COCO(_coco_found(dataset, detections))
    return COCOeval_faster(truth, found, iouType="bbox", print_function=lambda *_: None)


def coco_entries(dataset: Dataset, detections: Sequence[Detections]) -> list[dict[str, object]]:
    """COCO's result format: the file's own ids, ``x y width height``, full precision; boxes_image go in."""
    _check_length(dataset, detections)
    return [
        {"image_id": record.image_id, "category_id": dataset.category_ids[label], "bbox": box, "score": score}
        for record, one in zip(dataset.records, detections, strict=True)
        for box, label, score in zip(_xywh(one.boxes), one.labels.tolist(), one.scores.tolist(), strict=True)
    ]


def _coco_truth(dataset: Dataset) -> dict[str, list[dict[str, object]]]:
    annotations: list[dict[str, object]] = []
    for record in dataset.records:
        objects = record.annotation
        for i, box in enumerate(_xywh(objects.boxes)):
            annotations.append(
                {
                    "id": len(annotations) + 1,  # 0 would mean "not matched"
                    "image_id": record.image_id,
                    "category_id": dataset.category_ids[objects.labels[i]],
                    "bbox": box,
                    "area": float(objects.areas[i]),
                    "iscrowd": int(objects.ignore[i]),
                }
            )
    return _coco_file(dataset, annotations)


def _coco_found(dataset: Dataset, detections: Sequence[Detections]) -> dict[str, list[dict[str, object]]]:
    entries = coco_entries(dataset, detections)
    areas = [width * height for one in detections for _, _, width, height in _xywh(one.boxes)]
    for number, (entry, area) in enumerate(zip(entries, areas, strict=True), start=1):
        entry.update(id=number, area=area, iscrowd=0)
    return _coco_file(dataset, entries)


def _coco_file(dataset: Dataset, annotations: list[dict[str, object]]) -> dict[str, list[dict[str, object]]]:
    return {
        "images": [{"id": r.image_id, "height": r.height, "width": r.width} for r in dataset.records],
        "categories": [
            {"id": category, "name": name}
            for category, name in zip(dataset.category_ids, dataset.class_names, strict=True)
        ],
        "annotations": annotations,
    }


def _xywh(boxes: npt.NDArray[np.float32]) -> list[list[float]]:
    exact = boxes.astype(np.float64)  # a difference of float32 numbers would be rounded once more
    return np.concatenate([exact[:, :2], exact[:, 2:] - exact[:, :2]], axis=1).tolist()  # type: ignore[no-any-return]


def _mean(values: float | Floats) -> float:
    """The mean of what was measured (-1: nothing to measure), NaN where nothing was."""
    measured = np.asarray(values)[np.asarray(values) > -1]
    return float(measured.mean()) if measured.size else float("nan")


def voc_metrics(
    dataset: Dataset, detections: Sequence[Detections], year: Literal["voc07", "voc10"]
) -> Metrics:
    """Pascal VOC's AP of each class and its mean, "AP" (Everingham et al., 2010, section 4.2; 2010 devkit).

    "voc07": mean of the interpolated precision at 11 recalls; "voc10": area under the interpolated curve. A
    detection is right when its overlap with the best object of its class exceeds 0.5 (strictly; a box's last
    pixel counts into its size) and no better detection took that object; ignored (difficult) objects are
    neither demanded nor punished. Classes without an object to find are NaN and not part of the mean.

    `detections` are boxes_image, one entry per record and in that order; equal scores keep that order.
    """
    _check_length(dataset, detections)
    average = _average_at_11_recalls if year == "voc07" else _average_as_area
    matches, first = [], 0
    for record, one in zip(dataset.records, detections, strict=True):
        matches.append(_best_objects(record.annotation, one, first))
        first += len(record.annotation)
    best = np.concatenate([*matches, np.zeros(0, np.int64)])
    objects_labels = np.concatenate([*(r.annotation.labels for r in dataset.records), np.zeros(0, np.int64)])
    ignored = np.concatenate([*(r.annotation.ignore for r in dataset.records), np.zeros(0, np.bool_)])
    every = Detections.join(detections)

    metrics: Metrics = {"AP": float("nan")}
    for label, name in enumerate(dataset.class_names):
        demanded = int(np.count_nonzero((objects_labels == label) & ~ignored))
        chosen = np.flatnonzero(every.labels == label)
        chosen = chosen[np.argsort(-every.scores[chosen], kind="stable")]
        right, wrong = _judge(best[chosen], ignored)
        metrics[f"AP/{name}"] = average(*_curve(right, wrong, demanded)) if demanded else float("nan")
    measured = [ap for ap in metrics.values() if not np.isnan(ap)]
    return metrics | {"AP": float(np.mean(measured)) if measured else float("nan")}


def _best_objects(annotation: Annotation, found: Detections, first: int) -> npt.NDArray[np.int64]:
    """(N,) number, counted from `first`, of the object of its class that each detection covers; -1: none."""
    if not len(annotation):
        return np.full(len(found), -1, np.int64)
    same_class = found.labels[:, None] == annotation.labels[None]
    overlap = np.where(same_class, overlaps(found.boxes, annotation.boxes, border=1.0), -1.0)
    covered = overlap.max(axis=1) > VOC_OVERLAP
    return np.where(covered, first + overlap.argmax(axis=1), -1).astype(np.int64)


def _judge(
    best: npt.NDArray[np.int64], ignored: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which detections of one class, best first, are right and which wrong; on an ignored object neither."""
    on_ignored = np.zeros(len(best), np.bool_)
    on_ignored[best >= 0] = ignored[best[best >= 0]]
    first_of_object = np.zeros(len(best), np.bool_)
    first_of_object[np.unique(best, return_index=True)[1]] = True
    right = first_of_object & (best >= 0) & ~on_ignored
    return right, ~right & ~on_ignored


def _curve(
    right: npt.NDArray[np.bool_], wrong: npt.NDArray[np.bool_], demanded: int
) -> tuple[Floats, Floats]:
    """Recall and precision after each detection."""
    hits, misses = np.cumsum(right), np.cumsum(wrong)
    return hits / demanded, hits / np.maximum(hits + misses, np.finfo(np.float64).eps)


def _average_at_11_recalls(recall: Floats, precision: Floats) -> float:
    points = [precision[recall >= level].max(initial=0.0) for level in np.arange(0.0, 1.1, 0.1)]
    return float(np.mean(points))


def _average_as_area(recall: Floats, precision: Floats) -> float:
    steps = np.diff(recall, prepend=0.0)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]  # the best precision at this recall or beyond
    return float(np.sum(steps * envelope))


def _check_length(dataset: Dataset, detections: Sequence[Detections]) -> None:
    if len(detections) != len(dataset):
        raise ValueError(f"{len(detections)} lists of detections for {len(dataset)} images of {dataset.name}")
