# SPDX-License-Identifier: Apache-2.0
"""AP against pycocotools, against results of the published evaluation programs, and in corner cases."""

import contextlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from faster_coco_eval.core.faster_eval_api import COCOeval_faster
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pointdet.evaluation.metrics import (
    COCO_NUMBERS,
    coco_entries,
    coco_metrics,
    false_discovery_rates,
    measure,
    voc_metrics,
)
from pointdet.structures import Annotation, Dataset, Detections, Record

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "average_precision.json").read_text())


def make_detections(boxes, labels, scores):
    return Detections(
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray(labels, np.int64),
        np.asarray(scores, np.float32),
    )


def make_dataset(annotations, class_names, category_ids=None, image_ids=None):
    image_ids = image_ids or range(len(annotations))
    return Dataset(
        name="made",
        records=tuple(
            Record(i, f"{i}.jpg", 480, 640, a) for i, a in zip(image_ids, annotations, strict=True)
        ),
        class_names=tuple(class_names),
        category_ids=tuple(category_ids or range(1, len(class_names) + 1)),
    )


def random_scene(images=40, seed=3):
    """Objects of all sizes, crowds, an image and a class without objects; noisy and random detections."""
    random = np.random.default_rng(seed)
    annotations, found = [], []
    for image in range(images):
        count = 0 if image == 5 else int(random.integers(1, 9))
        corners = random.uniform(0, 300, (count, 2))
        far_corners = corners + np.exp(random.uniform(1.5, 5.5, (count, 2)))
        boxes = np.concatenate([corners, far_corners], axis=1).astype(np.float32)
        labels = random.integers(0, 4, count)
        size = boxes[:, 2:] - boxes[:, :2]
        areas = (size.prod(axis=1) * random.uniform(0.5, 1.0, count)).astype(np.float32)
        annotations.append(Annotation(boxes, labels, random.random(count) < 0.15, areas))
        near = np.repeat(boxes, 3, axis=0)
        near = near + random.normal(0, 0.08, near.shape) * np.repeat(size.repeat(3, axis=0), 2, axis=1)
        random_boxes = random.uniform(0, 200, (6, 4)) + [0, 0, 200, 200]
        joined = np.concatenate([near, random_boxes])
        joined_labels = np.concatenate([np.repeat(labels, 3), random.integers(0, 5, 6)])
        # Few different scores, so that there are ties.
        scores = np.round(random.random(len(joined)), 2)
        found.append(make_detections(joined, joined_labels, scores).best(100))
    # Neither images nor categories are in the order of their ids.
    image_ids = [int(i) for i in random.permutation(images) * 7 + 1000]
    dataset = make_dataset(annotations, "abcde", category_ids=[18, 3, 90, 1, 44], image_ids=image_ids)
    return dataset, found


def pycocotools_evaluation(dataset, found, **parameters):
    """The evaluation of pycocotools; `parameters` such as catIds and iouThrs."""
    truth = COCO()
    truth.dataset = {
        "images": [{"id": r.image_id, "height": r.height, "width": r.width} for r in dataset.records],
        "categories": [{"id": c, "name": str(c)} for c in dataset.category_ids],
        "annotations": [
            {
                "image_id": record.image_id,
                "category_id": dataset.category_ids[label],
                "bbox": [float(x1), float(y1), float(x2) - float(x1), float(y2) - float(y1)],
                "area": float(area),
                "iscrowd": int(crowd),
            }
            for record in dataset.records
            for (x1, y1, x2, y2), label, crowd, area in zip(
                record.annotation.boxes,
                record.annotation.labels,
                record.annotation.ignore,
                record.annotation.areas,
                strict=True,
            )
        ],
    }
    for number, annotation in enumerate(truth.dataset["annotations"], start=1):
        annotation["id"] = number
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        # Converted to JSON and back, as with the result file.
        result = truth.loadRes(json.loads(json.dumps(coco_entries(dataset, found))))
        evaluation = COCOeval(truth, result, "bbox")
        vars(evaluation.params).update(parameters)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def test_coco_metrics_equal_pycocotools(capfd):
    dataset, found = random_scene()
    metrics = coco_metrics(dataset, found)
    assert capfd.readouterr() == ("", "")
    expected = pycocotools_evaluation(dataset, found).stats
    assert 0.1 < metrics["AP"] < 0.9
    np.testing.assert_allclose([metrics[name] for name in COCO_NUMBERS], expected, rtol=1e-12)
    for name, category in zip(dataset.class_names, dataset.category_ids, strict=True):
        of_class = pycocotools_evaluation(dataset, found, catIds=[category]).stats
        got = [metrics[f"AP/{name}"], metrics[f"AP50/{name}"]]
        np.testing.assert_allclose(got, np.where(of_class[:2] < 0, np.nan, of_class[:2]), rtol=1e-12)
    assert math.isnan(metrics["AP/e"])  # the last class has no objects


RATES = {"FD": slice(10), "FD05": 0, "FD25": 4, "FD50": 9, "FD75": 10}
IOU_THRESHOLDS = np.append(np.linspace(0.05, 0.5, 10), 0.75)


def test_false_discovery_rates_equal_pycocotools(capfd):
    """With crowds, all sizes, and a class without objects, which is excluded from the means."""
    dataset, found = random_scene()
    rates = false_discovery_rates(dataset, found)
    assert capfd.readouterr() == ("", "")
    precision = pycocotools_evaluation(dataset, found, iouThrs=IOU_THRESHOLDS).eval["precision"][..., -1]
    assert (precision == -1).any()
    expected = {name: precision[thresholds, ..., 0] for name, thresholds in RATES.items()}
    expected |= {f"FD{size}": precision[:10, ..., area] for area, size in enumerate("sml", 1)}
    assert list(rates) == list(expected)
    for name, values in expected.items():
        assert rates[name] == pytest.approx(1 - values[values > -1].mean(), rel=1e-12), name
    metrics = coco_metrics(dataset, found)
    assert 0.1 < rates["FD05"] < rates["FD"] < rates["FD50"] == pytest.approx(1 - metrics["AP50"])
    assert rates["FD75"] == pytest.approx(1 - metrics["AP75"])


def plain_precision(dataset, found, label, threshold):
    """Interpolated precision at 101 recalls. A detection matches the unmatched object of highest IoU."""
    scores, is_true, positives = [], [], 0
    for record, one in zip(dataset.records, found, strict=True):
        unmatched = record.annotation.boxes[record.annotation.labels == label].tolist()
        positives += len(unmatched)
        of_class = one[one.labels == label]
        for (x1, y1, x2, y2), score in sorted(
            zip(of_class.boxes.tolist(), of_class.scores, strict=True), key=lambda pair: -pair[1]
        ):
            overlaps = []
            for left, top, right, bottom in unmatched:
                common = max(min(x2, right) - max(x1, left), 0) * max(min(y2, bottom) - max(y1, top), 0)
                union = (x2 - x1) * (y2 - y1) + (right - left) * (bottom - top) - common
                overlaps.append(common / union)
            is_true.append(max(overlaps, default=0) >= threshold)
            if is_true[-1]:
                del unmatched[int(np.argmax(overlaps))]
            scores.append(score)
    true_positives = np.cumsum(np.array(is_true)[np.argsort(-np.array(scores), kind="stable")])
    precision, recall = true_positives / np.arange(1, len(scores) + 1), true_positives / positives
    return [precision[recall >= level].max(initial=0) for level in np.linspace(0, 1, 101)]


def test_false_discovery_rates_equal_a_plain_computation():
    random = np.random.default_rng(8)
    annotations, found = [], []
    for _ in range(6):
        corners = random.uniform(0, 200, (4, 2))
        boxes = np.concatenate([corners, corners + random.uniform(60, 120, (4, 2))], axis=1)
        labels = random.integers(0, 2, 4)
        annotations.append(Annotation.of(boxes, labels))
        near = np.concatenate([boxes, boxes[:2]]) + random.normal(0, 12, (6, 4))
        found.append(make_detections(near, np.concatenate([labels, labels[:2]]), random.random(6)))
    dataset = make_dataset(annotations, "abc")  # the last class has no objects
    rates = false_discovery_rates(dataset, found)
    precision = np.array(
        [[plain_precision(dataset, found, label, iou) for label in (0, 1)] for iou in IOU_THRESHOLDS]
    )
    for name, thresholds in RATES.items():
        assert rates[name] == pytest.approx(np.mean(1 - precision[thresholds]), rel=1e-9), name
    assert rates["FD05"] < rates["FD25"] < rates["FD75"]


def test_coco_metrics_equal_the_published_ones():
    truth, annotations_of = GOLDEN["coco"]["ground_truth"], {}
    for annotation in truth["annotations"]:
        annotations_of.setdefault(annotation["image_id"], []).append(annotation)
    categories = [c["id"] for c in truth["categories"]]
    annotations, found = [], []
    for image in truth["images"]:
        objects = annotations_of.get(image["id"], [])
        boxes = np.array([o["bbox"] for o in objects]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        annotations.append(
            Annotation(
                boxes.astype(np.float32),
                np.array([categories.index(o["category_id"]) for o in objects], np.int64),
                np.array([o["iscrowd"] for o in objects], np.bool_),
                np.array([o["area"] for o in objects], np.float32),
            )
        )
        results = [d for d in GOLDEN["coco"]["detections"] if d["image_id"] == image["id"]]
        found.append(
            make_detections(
                [d["box"] for d in results],
                [categories.index(d["category_id"]) for d in results],
                [d["score"] for d in results],
            )
        )
    names = [c["name"] for c in truth["categories"]]
    dataset = make_dataset(annotations, names, categories, [i["id"] for i in truth["images"]])
    metrics = coco_metrics(dataset, found)
    np.testing.assert_allclose(
        [metrics[name] for name in COCO_NUMBERS], GOLDEN["coco"]["numbers"], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("year, curve", [("voc07", "voc07_11point"), ("voc10", "voc10_area")])
@pytest.mark.parametrize("difficult", ["ignored", "counted"])
def test_voc_ap_equals_the_published_one(year, curve, difficult):
    golden, names = GOLDEN["voc"], list(GOLDEN["voc"]["detections"])
    annotations, found = [], []
    for image in golden["images"]:
        objects = [o for o in golden["objects"].get(image, []) if o["name"] in names]
        plain = Annotation.of([o["bbox"] for o in objects], [names.index(o["name"]) for o in objects])
        ignore = np.array([o["difficult"] for o in objects], np.bool_) & (difficult == "ignored")
        annotations.append(Annotation(plain.boxes - 1, plain.labels, ignore, plain.areas))
        of_class = [golden["detections"][name].get(image, []) for name in names]
        table = np.array([(*row, label) for label, rows in enumerate(of_class) for row in rows]).reshape(
            -1, 6
        )
        # The published programs round their results: boxes to 1 decimal, scores to 3.
        boxes, scores = np.round(table[:, :4] + 1, 1) - 1, np.round(table[:, 4], 3)
        found.append(make_detections(boxes, table[:, 5], scores))
    metrics = voc_metrics(make_dataset(annotations, names), found, year)
    measured = []
    for i, name in enumerate(names):
        expected = golden["ap"][f"{name}|{curve}|difficult_{difficult}"]
        if any(((a.labels == i) & ~a.ignore).any() for a in annotations):
            assert metrics[f"AP/{name}"] == pytest.approx(expected, abs=1e-12)
            measured.append(expected)
        else:
            assert math.isnan(metrics[f"AP/{name}"])
    assert 0 < len(measured) < len(names)
    assert metrics["AP"] == pytest.approx(np.mean(measured), abs=1e-12)


def test_voc_overlap_includes_the_last_pixel_and_must_exceed_a_half():
    # The object has 10 x 1 pixels. The first detection covers 5 of them and no others: IoU 1/2.
    dataset = make_dataset([Annotation.of([[0, 0, 9, 0]], [0])], ["a"])
    assert voc_metrics(dataset, [make_detections([[0, 0, 4, 0]], [0], [0.9])], "voc10")["AP"] == 0.0
    assert voc_metrics(dataset, [make_detections([[0, 0, 5, 0]], [0], [0.9])], "voc10")["AP"] == 1.0


def test_voc_second_detection_of_an_object_is_a_false_positive():
    dataset = make_dataset([Annotation.of([[0, 0, 9, 9], [50, 50, 59, 59]], [0, 0])], ["a"])
    boxes = [[0, 0, 9, 9], [0, 0, 9, 9], [50, 50, 59, 59]]
    metrics = voc_metrics(dataset, [make_detections(boxes, [0, 0, 0], [0.9, 0.8, 0.7])], "voc10")
    assert metrics["AP"] == pytest.approx(0.5 + 0.5 * 2 / 3)


@pytest.mark.parametrize("metric", ["coco", "voc07", "voc10"])
def test_no_detections_and_no_ground_truth(metric):
    nothing = make_detections([], [], [])
    some = make_dataset([Annotation.of([[0, 0, 99, 99]], [0]), Annotation.of([], [])], ["a", "b"])
    metrics = measure(some, [nothing, nothing], metric)
    rates = false_discovery_rates(some, [nothing, nothing])
    assert rates["FD"] == rates["FD05"] == rates["FDl"] == 1 and math.isnan(rates["FDs"])
    assert metrics["AP"] == 0.0 and metrics["AP/a"] == 0.0 and math.isnan(metrics["AP/b"])
    empty = make_dataset([Annotation.of([], [])], ["a"])
    assert math.isnan(measure(empty, [make_detections([[0, 0, 9, 9]], [0], [0.5])], metric)["AP"])


def test_detections_of_another_number_of_images_raise_an_error():
    with pytest.raises(ValueError, match="1 lists of detections for 40 images"):
        voc_metrics(random_scene()[0], [make_detections([], [], [])], "voc07")


def test_both_from_the_same_curves_are_those_of_each(monkeypatch):
    dataset, found = random_scene()
    expected = coco_metrics(dataset, found) | false_discovery_rates(dataset, found)
    evaluations = []
    evaluate = COCOeval_faster.evaluate
    monkeypatch.setattr(COCOeval_faster, "evaluate", lambda self: (evaluations.append(self), evaluate(self)))
    metrics = measure(dataset, found, "coco", rates=True)
    assert len(evaluations) == 1
    assert list(metrics) == list(expected)
    np.testing.assert_array_equal(
        list(metrics.values()), list(expected.values())
    )  # bit for bit; NaN equals NaN
    assert list(measure(dataset, found, "voc07", rates=True)) == list(measure(dataset, found, "voc07"))
