# SPDX-License-Identifier: Apache-2.0
"""The loss of the validation images, without augmentation and with the running statistics."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pointdet.config.schema import AugmentConfig
from pointdet.data.augment import Augmenter
from pointdet.data.loader import Loader
from pointdet.model.restore import Model
from pointdet.stop_request import Stopped
from pointdet.structures import Dataset
from pointdet.training.graph import TrainingGraph

NO_AUGMENTATION = AugmentConfig(flip=0, crop=False, shift=0, scale=0, colour=0, lighting=0)


class ValidationLoss:
    """Measures the loss terms in batches of train.batch_size images per rank.

    A term is the mean over the batches of all ranks, weighted with their numbers of images. Within a batch its divisors
    count all ranks, as in training.
    """

    def __init__(self, model: Model, dataset: Dataset) -> None:
        self._model, self._dataset = model, dataset
        self._graph: TrainingGraph | None = None

    def measure(self, stop: Callable[[], bool]) -> dict[str, float]:
        """The loss terms by name. Every rank must call it. Raises Stopped if `stop()` is true on any rank."""
        model, ranks = self._model, self._model.runtime.ranks
        if self._graph is None:
            self._graph = TrainingGraph(model.config, model.detector, model.runtime, training=False)
        sums, images = np.zeros(len(self._graph.terms)), 0.0
        with self._loader() as loader:
            for batch in loader.epoch(0):
                counts = model.detector.loss.count(batch)
                more = [float(np.sum(batch["weight"])), float(stop())]
                *divisors, number, stopped = ranks.sum(np.concatenate([counts, more]))
                if stopped:
                    raise Stopped
                shares = self._graph.forward(batch, np.array(divisors)).data
                sums, images = sums + number * np.asarray(shares, np.float64), images + number
        return dict(zip(self._graph.terms, (ranks.sum(sums) / images).tolist(), strict=True))

    def _loader(self) -> Loader:
        config, ranks = self._model.config, self._model.runtime.ranks
        return Loader(
            self._dataset,
            Augmenter(NO_AUGMENTATION, config.input, self._model.detector.image_channels),
            self._model.detector.codec,
            batch_size=config.train.batch_size,
            seed=config.train.seed,
            workers=config.train.workers,
            rank=ranks.rank,
            size=ranks.size,
            ignored_boxes=config.dataset.ignored_boxes,
        )
