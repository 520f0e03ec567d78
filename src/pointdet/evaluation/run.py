# SPDX-License-Identifier: Apache-2.0
"""Predictor and dataset -> detections of every image: read ahead in threads, shared among all ranks."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tqdm import tqdm

from pointdet.data.images import ImageFault, read_image
from pointdet.inference.pipeline import mapped
from pointdet.structures import Dataset, Detections, Record

if TYPE_CHECKING:
    from pointdet.inference.predictor import Predictor, Prepared
    from pointdet.runtime import Ranks

logger = logging.getLogger("pointdet")

READING_THREADS = 4
MOST_FAULTS_NAMED = 10


def evaluate(predictor: Predictor, dataset: Dataset, ranks: Ranks) -> list[Detections]:
    """Detections (boxes_image) of every record in dataset order, the same list on every rank.

    Rank r takes every size-th image from the r-th on. An image that cannot be read gets no detections; rank 0
    warns of all of them once.
    """
    batch_size = predictor.test.batch_size
    mine = dataset.records[ranks.rank :: ranks.size]
    found = [Detections.join([])] * len(mine)
    faults: list[str] = []
    batch: dict[int, Prepared] = {}

    def read(record: Record) -> Prepared | ImageFault:
        try:
            return predictor.prepare(read_image(record.image_path, record.height, record.width))
        except ImageFault as fault:
            return fault

    def predict_batch() -> None:
        for index, detections in zip(batch, predictor.detect(list(batch.values())), strict=True):
            found[index] = detections
        batch.clear()

    # None: a progress bar only where standard error is a terminal.
    images = mapped(read, mine, READING_THREADS, READING_THREADS + 2 * batch_size)
    progress = tqdm(images, dataset.name, len(mine), unit="image", disable=None if ranks.rank == 0 else True)
    for index, prepared in enumerate(progress):
        if isinstance(prepared, ImageFault):
            faults.append(str(prepared))
        else:
            batch[index] = prepared
        if len(batch) == batch_size:
            predict_batch()
    if batch:
        predict_batch()
    return _gather(ranks, dataset, found, faults)


def _gather(ranks: Ranks, dataset: Dataset, found: list[Detections], faults: list[str]) -> list[Detections]:
    parts = ranks.gather((found, faults))
    together = [Detections.join([])] * len(dataset)
    if parts is not None:
        for rank, (part, _) in enumerate(parts):
            together[rank :: ranks.size] = part
        every_fault = [fault for _, some in parts for fault in some]
        if every_fault:
            logger.warning(
                "%d of %d images cannot be read and count as images without detections: %s%s",
                len(every_fault),
                len(dataset),
                "; ".join(every_fault[:MOST_FAULTS_NAMED]),
                " ..." * (len(every_fault) > MOST_FAULTS_NAMED),
            )
    return list(ranks.broadcast(together))
