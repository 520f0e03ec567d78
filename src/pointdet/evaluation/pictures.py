# SPDX-License-Identifier: Apache-2.0
"""Pictures of detections beside the ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pointdet.data.images import ImageFault, read_image
from pointdet.drawing import contact_sheet, draw_annotation, draw_detections
from pointdet.inference.sinks import save_image
from pointdet.structures import Dataset, Detections


def write_pictures(
    folder: Path, dataset: Dataset, detections: Sequence[Detections], threshold: float, count: int
) -> int:
    """Draw the first `count` images of a dataset: ground truth on the left, detections on the right.

    detections: boxes_image of every image. threshold: lowest score that is drawn. Returns the number of pictures;
    images that cannot be read have none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    for number, (record, found) in enumerate(zip(dataset.records[:count], detections, strict=False)):
        try:
            image = read_image(record.image_path, record.height, record.width)
        except ImageFault:
            continue  # the evaluation has named it
        truth = draw_annotation(image, record.annotation, dataset.class_names)
        drawn = draw_detections(image, found, dataset.class_names, threshold)
        path = folder / f"{number:06d}_{Path(record.image_path).stem}.jpg"
        save_image(path, contact_sheet([truth, drawn], 2))
        written += 1
    return written
