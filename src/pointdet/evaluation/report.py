# SPDX-License-Identifier: Apache-2.0
"""Metrics as a table for the terminal; metrics and detections as JSON files."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from pointdet.errors import visible
from pointdet.evaluation.metrics import Metrics, coco_entries
from pointdet.files import write_text
from pointdet.structures import Dataset, Detections

TITLES = {
    "coco": "COCO box AP (IoU 0.50 to 0.95) in percent",
    "voc07": "Pascal VOC 2007 mean AP (IoU above 0.5, 11 recalls) in percent",
    "voc10": "Pascal VOC 2010 mean AP (IoU above 0.5, area under the curve) in percent",
}


def table(dataset: Dataset, metric: str, metrics: Metrics) -> str:
    """Means, false discovery rates if `metrics` has any, and classes, in percent; a dash for NaN."""
    means = [name for name in metrics if "/" not in name]
    rates = [name for name in means if name.startswith("FD")]
    columns = list(dict.fromkeys(name.split("/")[0] for name in metrics if "/" in name))
    shown = {name: visible(name) for name in dataset.class_names}
    width = max(len(name) for name in (*shown.values(), "class"))
    lines = [
        f"{dataset.name}, {len(dataset)} images: {TITLES[metric]}",
        "",
        *_row(metrics, [name for name in means if name not in rates]),
        "",
    ]
    if rates:
        lines += ["False discovery rates, FD: IoU 0.05 to 0.50, in percent", "", *_row(metrics, rates), ""]
    lines.append(f"{'class':<{width}} " + " ".join(f"{name:>6}" for name in columns))
    for name in dataset.class_names:
        values = " ".join(f"{_percent(metrics[f'{column}/{name}']):>6}" for column in columns)
        lines.append(f"{shown[name]:<{width}} {values}")
    unmeasured = [shown[name] for name in dataset.class_names if math.isnan(metrics[f"AP/{name}"])]
    if unmeasured:
        lines += ["", f"No ground truth, so excluded from the means: {', '.join(unmeasured)}."]
    return "\n".join(lines)


def _row(metrics: Metrics, names: Sequence[str]) -> list[str]:
    """Two lines: the names, and the numbers below them."""
    numbers = (_percent(metrics[name]) for name in names)
    return [" ".join(f"{word:>6}" for word in line) for line in (names, numbers)]


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def write_metrics(path: Path, dataset: Dataset, metric: str, metrics: Metrics) -> None:
    """Write `metrics.json`: fractions in full precision; null for NaN."""
    values = {name: None if math.isnan(value) else value for name, value in metrics.items()}
    document = {"dataset": dataset.name, "images": len(dataset), "metric": metric, "metrics": values}
    write_text(path, json.dumps(document, indent=2) + "\n")


def write_detections(path: Path, dataset: Dataset, detections: Sequence[Detections]) -> None:
    """Write `detections.json` in COCO's result format, one detection per line.

    `detections` are boxes_image, one entry per record, in that order.
    """
    lines = [json.dumps(entry) for entry in coco_entries(dataset, detections)]
    write_text(path, "[" + ",\n".join(lines) + "]\n")
