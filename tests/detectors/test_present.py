# SPDX-License-Identifier: Apache-2.0
"""The target "present" of every detector says which planes of its heatmaps are not 0."""

import numpy as np
import pytest

from pointdet.config import schema
from pointdet.detectors import catalogue
from pointdet.structures import Annotation

CLASSES = 5
DETECTORS = {
    "ctdet": schema.CtDetConfig(max_objects=6),
    "cornernet": schema.CornerNetConfig(max_objects=6),
    "triplet": schema.TripletConfig(max_objects=6),
}


def codec_and_heatmaps(name):
    """The codec, and the heatmaps that the head predicts."""
    detector = catalogue.build(
        schema.Config(
            dataset=schema.DatasetConfig(dataset="x", format="coco"),
            detector=DETECTORS[name],
            input=schema.InputConfig(height=128, width=96),
        ),
        CLASSES,
    )
    return detector.codec, detector.head.heatmaps


@pytest.mark.parametrize("name", DETECTORS)
def test_names_of_heatmaps(name):
    codec, predicted = codec_and_heatmaps(name)
    shapes = codec.target_shapes()
    assert codec.heatmaps == predicted and shapes["present"] == (CLASSES,)
    assert {n for n, shape in shapes.items() if len(shape) == 3} == set(codec.heatmaps)


@pytest.mark.parametrize("count", [0, 1, 3, 12])
@pytest.mark.parametrize("name", DETECTORS)
def test_planes_of_absent_classes_are_zero(name, count):
    """Objects that are outside of the image or exceed max_objects are not encoded."""
    codec, _ = codec_and_heatmaps(name)
    rng = np.random.default_rng(count)
    targets = {n: np.full(shape, np.nan, np.float32) for n, shape in codec.target_shapes().items()}
    for _ in range(20):
        corners = rng.uniform(-60, 130, (count, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(4, 40, (count, 2))], axis=1)
        codec.encode(Annotation.of(boxes.tolist(), rng.integers(CLASSES, size=count).tolist()), targets)
        assert targets["mask"].sum() >= targets["present"].sum()
        assert targets["mask"].any() == targets["present"].any()
        for heatmap in codec.heatmaps:
            np.testing.assert_array_equal(targets["present"], targets[heatmap].any(axis=(1, 2)))
            np.testing.assert_array_equal(targets["present"], (targets[heatmap] == 1).any(axis=(1, 2)))
