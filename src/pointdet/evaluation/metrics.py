# SPDX-License-Identifier: Apache-2.0
"""AP of COCO (12 numbers) and of Pascal VOC (2007 and 2010), and false discovery rates. Nothing is rounded.

A result is a flat ``dict[str, float]``: the means under their own names and ``AP/<class>`` for each class.
"AP" selects the best checkpoint. A value is NaN where there is no ground truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Literal

import numpy as np
from faster_coco_eval.core.coco import COCO
from faster_coco_eval.core.faster_eval_api import COCOeval_faster

from pointdet.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from pointdet.geometry import overlaps
from pointdet.structures import Annotation, Dataset, Detections

Metrics = dict[str, float]

COCO_NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
AP_OVERLAPS = np.linspace(0.5, 0.95, 10)  # IoU thresholds, as in pycocotools
FD_OVERLAPS = np.append(np.linspace(0.05, 0.5, 10), 0.75)  # IoU thresholds; FD is the mean over the first ten
FD_THRESHOLDS = {"FD05": 0, "FD25": 4, "FD50": 9, "FD75": 10}  # index into FD_OVERLAPS
AREAS = ("", "s", "m", "l")  # all, small (below 32 x 32), medium, large (above 96 x 96)
VOC_OVERLAP = 0.5


def measure(
    dataset: Dataset,
    detections: Sequence[Detections],
    metric: Literal["coco", "voc07", "voc10"],
    rates: bool = False,
) -> Metrics:
    """The metric that `dataset.metric` names. `rates`: with the false discovery rates, where the metric is coco.

    `detections` as for `coco_metrics`.
    """
    if metric != "coco":
        return voc_metrics(dataset, detections, metric)
    if not rates:
        return coco_metrics(dataset, detections)
    # The curves of both are computed at once: reading and comparing the boxes takes most of the time.
    curves = _coco_curves(dataset, detections, np.union1d(AP_OVERLAPS, FD_OVERLAPS))
    return _average_precisions(dataset, curves) | _false_discovery_rates(curves)


def coco_metrics(dataset: Dataset, detections: Sequence[Detections]) -> Metrics:
    """COCO's 12 numbers for boxes (Lin et al., 2014), and AP and AP50 of each class, as in pycocotools.

    `detections` are boxes_image, one entry per record, in that order. Ignored objects are evaluated as
    crowds.
    """
    return _average_precisions(dataset, _coco_curves(dataset, detections, AP_OVERLAPS))


def _average_precisions(dataset: Dataset, evaluation: COCOeval_faster) -> Metrics:
    """`evaluation`: of `_coco_curves` with AP_OVERLAPS among its thresholds."""
    rows = np.searchsorted(evaluation.params.iouThrs, AP_OVERLAPS)
    part = copy(evaluation)
    part.params = copy(evaluation.params)
    part.params.iouThrs = AP_OVERLAPS
    part.eval = {name: evaluation.eval[name][rows] for name in ("precision", "recall")}
    part.summarize()
    # (IoU threshold, recall, class sorted by id, area range, detection limit); -1: no ground truth
    precision = part.eval["precision"][..., 0, -1]

    metrics = {name: _mean(number) for name, number in zip(COCO_NUMBERS, part.stats, strict=True)}
    column = {category: i for i, category in enumerate(sorted(dataset.category_ids))}
    for name, category in zip(dataset.class_names, dataset.category_ids, strict=True):
        metrics[f"AP/{name}"] = _mean(precision[:, :, column[category]])
        metrics[f"AP50/{name}"] = _mean(precision[0, :, column[category]])
    return metrics


def false_discovery_rates(dataset: Dataset, detections: Sequence[Detections]) -> Metrics:
    """False discovery rates (Duan et al., 2019, section 3.1): 1 - AP at low IoU thresholds.

    "FD": 1 - AP averaged over the IoU thresholds 0.05, 0.10, ..., 0.50. "FDs", "FDm", "FDl": the same for
    small, medium and large objects. "FD05", "FD25", "FD50", "FD75": at one threshold. `detections` as for
    `coco_metrics`.
    """
    return _false_discovery_rates(_coco_curves(dataset, detections, FD_OVERLAPS))


def _false_discovery_rates(evaluation: COCOeval_faster) -> Metrics:
    """`evaluation`: of `_coco_curves` with FD_OVERLAPS among its thresholds."""
    rows = np.searchsorted(evaluation.params.iouThrs, FD_OVERLAPS)
    precision = evaluation.eval["precision"][rows][..., -1]
    rates = {f"FD{area}": 1 - _mean(precision[:10, ..., i]) for i, area in enumerate(AREAS)}
    single = {name: 1 - _mean(precision[i, ..., 0]) for name, i in FD_THRESHOLDS.items()}
    return {"FD": rates.pop("FD"), **single, **rates}


def _coco_curves(
    dataset: Dataset, detections: Sequence[Detections], overlaps: Float64Array
) -> COCOeval_faster:
    """The evaluation of boxes with its curves of precision and recall at IoU thresholds, ascending. Prints nothing."""
    _check_length(dataset, detections)
    truth, results = COCO(_coco_ground_truth(dataset)), COCO(_coco_results(dataset, detections))
    evaluation = COCOeval_faster(truth, results, iouType="bbox", print_function=lambda *_: None)
    evaluation.params.iouThrs = overlaps
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def coco_entries(dataset: Dataset, detections: Sequence[Detections]) -> list[dict[str, object]]:
    """Detections (boxes_image) in COCO's result format: ids of the annotation file, ``x y width height``."""
    _check_length(dataset, detections)
    every = Detections.join(detections)
    columns = zip(
        np.repeat([record.image_id for record in dataset.records], [len(one) for one in detections]).tolist(),
        np.array(dataset.category_ids)[every.labels].tolist(),
        _xywh(every.boxes),
        every.scores.tolist(),
        strict=True,
    )
    return [
        {"image_id": image, "category_id": category, "bbox": box, "score": score}
        for image, category, box, score in columns
    ]


def _coco_ground_truth(dataset: Dataset) -> dict[str, list[dict[str, object]]]:
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


def _coco_results(dataset: Dataset, detections: Sequence[Detections]) -> dict[str, list[dict[str, object]]]:
    entries = coco_entries(dataset, detections)
    areas = [width * height for _, _, width, height in _xywh(Detections.join(detections).boxes)]
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


def _xywh(boxes: Float32Array) -> list[list[float]]:
    exact = boxes.astype(np.float64)  # float32 would round the differences
    return np.concatenate([exact[:, :2], exact[:, 2:] - exact[:, :2]], axis=1).tolist()  # type: ignore[no-any-return]


def _mean(values: float | Float64Array) -> float:
    """The mean of all values except -1, which means no ground truth; NaN if there are no others."""
    measured = np.asarray(values)[np.asarray(values) > -1]
    return float(measured.mean()) if measured.size else float("nan")


def voc_metrics(
    dataset: Dataset, detections: Sequence[Detections], year: Literal["voc07", "voc10"]
) -> Metrics:
    """Pascal VOC's AP of each class, and their mean "AP", as in the devkit of 2010.

    Everingham et al., 2010, section 4.2. "voc07" is the mean of the interpolated precision at 11 recalls,
    "voc10" the area under the interpolated curve. A detection matches the object of its class with the
    highest IoU if that IoU is above 0.5; widths and heights include the last pixel. The match with the
    highest score is a true positive, all other detections are false positives. Matches with ignored
    (difficult) objects are ignored: neither true nor false positives. Classes without positives, that is
    objects that are not ignored, are NaN and excluded from the mean.

    `detections` are boxes_image, one entry per record, in that order. Equal scores keep that order.
    """
    _check_length(dataset, detections)
    average = _average_at_11_recalls if year == "voc07" else _average_as_area
    matches, first = [], 0
    for record, one in zip(dataset.records, detections, strict=True):
        matches.append(_best_objects(record.annotation, one, first))
        first += len(record.annotation)
    best = np.concatenate([*matches, np.zeros(0, np.int64)])
    object_labels = np.concatenate([*(r.annotation.labels for r in dataset.records), np.zeros(0, np.int64)])
    ignored = np.concatenate([*(r.annotation.ignore for r in dataset.records), np.zeros(0, np.bool_)])
    every = Detections.join(detections)

    metrics: Metrics = {"AP": float("nan")}
    for label, name in enumerate(dataset.class_names):
        positives = int(np.count_nonzero((object_labels == label) & ~ignored))
        of_class = np.flatnonzero(every.labels == label)
        of_class = of_class[np.argsort(-every.scores[of_class], kind="stable")]
        curve = _curve(*_match(best[of_class], ignored), positives) if positives else None
        metrics[f"AP/{name}"] = average(*curve) if curve else float("nan")
    measured = [ap for ap in metrics.values() if not np.isnan(ap)]
    return metrics | {"AP": float(np.mean(measured)) if measured else float("nan")}


def _best_objects(annotation: Annotation, found: Detections, first: int) -> Int64Array:
    """(N,) index of the object that each detection matches, counted from `first`; -1: no match.

    It is the object of the same class with the highest IoU, if that exceeds VOC_OVERLAP.
    """
    if not len(annotation):
        return np.full(len(found), -1, np.int64)
    same_class = found.labels[:, None] == annotation.labels[None]
    overlap = np.where(same_class, overlaps(found.boxes, annotation.boxes, border=1.0), -1.0)
    matched = overlap.max(axis=1) > VOC_OVERLAP
    return np.where(matched, first + overlap.argmax(axis=1), -1).astype(np.int64)


def _match(best: Int64Array, ignored: BoolArray) -> tuple[BoolArray, BoolArray]:
    """True positives (N,) and false positives (N,) among the detections of one class.

    Args:
        best: (N,) index of the object that each detection matches, sorted by descending score; -1: no match.
        ignored: (M,) whether an object is ignored. A detection that matches such an object is in neither
            result.
    """
    on_ignored = np.zeros(len(best), np.bool_)
    on_ignored[best >= 0] = ignored[best[best >= 0]]
    first_of_object = np.zeros(len(best), np.bool_)
    first_of_object[np.unique(best, return_index=True)[1]] = True
    true_positives = first_of_object & (best >= 0) & ~on_ignored
    return true_positives, ~true_positives & ~on_ignored


def _curve(
    true_positives: BoolArray, false_positives: BoolArray, positives: int
) -> tuple[Float64Array, Float64Array]:
    """Recall and precision (N,) after each detection; `positives`: the number of ground truth objects."""
    tp, fp = np.cumsum(true_positives), np.cumsum(false_positives)
    return tp / positives, tp / np.maximum(tp + fp, np.finfo(np.float64).eps)


def _average_at_11_recalls(recall: Float64Array, precision: Float64Array) -> float:
    points = [precision[recall >= level].max(initial=0.0) for level in np.arange(0.0, 1.1, 0.1)]
    return float(np.mean(points))


def _average_as_area(recall: Float64Array, precision: Float64Array) -> float:
    steps = np.diff(recall, prepend=0.0)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]  # the highest precision at this recall or above
    return float(np.sum(steps * envelope))


def _check_length(dataset: Dataset, detections: Sequence[Detections]) -> None:
    if len(detections) != len(dataset):
        raise ValueError(f"{len(detections)} lists of detections for {len(dataset)} images of {dataset.name}")
