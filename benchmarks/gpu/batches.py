# SPDX-License-Identifier: Apache-2.0
"""Batches of random images and boxes, with the targets of a detector."""

from __future__ import annotations

import numpy as np

from pointdet.arrays import Batch
from pointdet.model.restore import Model
from pointdet.structures import Annotation

OBJECTS = 7  # of an image


def random_batch(model: Model, rng: np.random.Generator) -> Batch:
    """A batch of the model's size, as the loader gives it."""
    config, codec = model.config, model.detector.codec
    height, width, count = config.input.height, config.input.width, config.train.batch_size
    shapes = codec.target_shapes()
    batch: Batch = {
        "image": rng.integers(0, 256, (count, height, width, 3), np.uint8),
        "colour": colour_of(model, count),
        "weight": np.ones(count, np.float32),
        **{name: np.zeros((count, *shape), np.float32) for name, shape in shapes.items()},
    }
    for row in range(count):
        corner = rng.uniform(0, 0.7, (OBJECTS, 2)) * (width, height)
        size = rng.uniform(0.05, 0.3, (OBJECTS, 2)) * (width, height)
        boxes = np.concatenate([corner, corner + size], axis=1)
        labels = rng.integers(len(model.class_names), size=OBJECTS)
        annotation = Annotation.of(boxes.tolist(), labels.tolist())
        codec.encode(annotation, {name: batch[name][row] for name in shapes})
    return batch


def colour_of(model: Model, count: int) -> np.ndarray:
    """(count, C, 4): the model's normalisation for each image."""
    return np.repeat(model.colour[None], count, axis=0)
