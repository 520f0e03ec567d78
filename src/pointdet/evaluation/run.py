# SPDX-License-Identifier: Apache-2.0
"""Predictor and dataset -> detections of every image. Threads read the images; all ranks share the work."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from pointdet.data.images import ImageFault, read_image
from pointdet.errors import first_few
from pointdet.inference.pipeline import parallel_map
from pointdet.stop_request import Stopped
from pointdet.structures import Dataset, Detections

if TYPE_CHECKING:
    from pointdet.inference.predictor import Predictor, Prepared
    from pointdet.ranks.base import Ranks

logger = logging.getLogger("pointdet")

READING_THREADS = 4
MOST_FAULTS_NAMED = 10


def evaluate(
    predictor: Predictor, dataset: Dataset, ranks: Ranks, stop: Callable[[], bool] | None = None
) -> list[Detections]:
    """Detections (boxes_image) of every record, in that order. Every rank returns the same list.

    Rank r of n processes the images r, r + n, r + 2 n, ... An image that cannot be read has no detections;
    rank 0 logs one warning that names these images. `stop` is asked after every test.batch_size images; if it
    is true on any rank, all ranks raise Stopped.
    """
    batch_size = predictor.test.batch_size
    mine = range(ranks.rank, len(dataset), ranks.size)
    found = [Detections.join([])] * len(mine)
    faults: list[str] = []
    batch: dict[int, Prepared] = {}

    def read(number: int) -> Prepared | ImageFault:
        record = dataset.records[number]
        try:
            return predictor.prepare(read_image(record.image_path, record.height, record.width))
        except ImageFault as fault:
            return fault

    def predict_batch() -> None:
        for index, detections in zip(batch, predictor.detect(list(batch.values())), strict=True):
            found[index] = detections
        batch.clear()

    # disable=None: tqdm shows the bar only if standard error is a terminal.
    images = parallel_map(read, mine, READING_THREADS, READING_THREADS + 2 * batch_size)
    progress = tqdm(images, dataset.name, len(mine), unit="image", disable=None if ranks.rank == 0 else True)
    for index, prepared in enumerate(progress):
        if isinstance(prepared, ImageFault):
            faults.append(str(prepared))
        else:
            batch[index] = prepared
        if len(batch) == batch_size:
            predict_batch()
        if stop is not None and (index + 1) % batch_size == 0:
            _stop_together(ranks, stop)
    if batch:
        predict_batch()
    if stop is not None and len(mine) // batch_size < -(-len(dataset) // ranks.size) // batch_size:
        _stop_together(ranks, stop)  # the other ranks have one image more, and so one question more
    return _gather(ranks, dataset, found, faults)


def _stop_together(ranks: Ranks, stop: Callable[[], bool]) -> None:
    if ranks.sum(np.array([float(stop())]))[0]:
        raise Stopped


def _gather(ranks: Ranks, dataset: Dataset, found: list[Detections], faults: list[str]) -> list[Detections]:
    """The detections of all ranks in dataset order, on every rank."""
    parts = ranks.gather((found, faults))
    together = [Detections.join([])] * len(dataset)
    if parts is not None:
        for rank, (part, _) in enumerate(parts):
            together[rank :: ranks.size] = part
        every_fault = [fault for _, some in parts for fault in some]
        if every_fault:
            logger.warning(
                "%d of %d images cannot be read and count as images without detections: %s",
                len(every_fault),
                len(dataset),
                first_few(every_fault, MOST_FAULTS_NAMED, "; "),
            )
    return list(ranks.broadcast(together))
