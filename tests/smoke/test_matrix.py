# SPDX-License-Identifier: Apache-2.0
"""Every detector on every backbone in both layouts: built, one training step, decoded, exported, loaded again."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import tiny

from pointdet.export.nnp import NnpNetwork, write
from pointdet.inference.predictor import Predictor
from pointdet.structures import Annotation
from pointdet.training.graph import TrainingGraph
from pointdet.training.solver import Solver

DETECTORS = ("ctdet", "cornernet", "triplet")
BACKBONES = ("resnet", "resdcn", "dlav0", "dla", "hourglass", "hrnet")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.draw(tmp_path_factory.mktemp("data"), train=1, val=1)


def batch_of(model):
    """Two images with one object, and one without."""
    codec, side = model.detector.codec, tiny.SIDE
    rng = np.random.default_rng(0)
    samples = []
    for boxes in ([[8, 12, 40, 52]], []):
        targets = {name: np.empty(shape, np.float32) for name, shape in codec.target_shapes().items()}
        assert codec.encode(Annotation.of(boxes, [1] * len(boxes)), targets) == 0
        image = rng.integers(0, 256, (side, side, 3), np.uint8)
        colour = np.eye(model.detector.image_channels, 4, dtype=np.float32) / 255
        samples.append({"image": image, "colour": colour, "weight": np.float32(1), **targets})
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


def train_one_step(model):
    graph = TrainingGraph(model.config, model.detector, model.runtime)
    solver = Solver(model.config.train, model.config.mixed_precision, model.detector.parameters())
    batch = batch_of(model)
    solver.begin()
    terms = graph.forward(batch, model.detector.loss.count(batch))
    graph.backward(1.0, None)
    solver.update(1e-3)
    return terms


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("detector", DETECTORS)
def test_whole_life(tmp_path, data, detector, backbone, layout):
    model = tiny.model(
        tiny.config(
            data,
            *tiny.NETWORKS[backbone],
            f"detector.name={detector}",
            f"mixed_precision.channel_last={layout == 'NHWC'}",
            *(() if detector == "ctdet" else ("detector.tag_distance=1000",)),
        )
    )
    before = tiny.parameters(model)
    terms = train_one_step(model)
    after = tiny.parameters(model)
    assert all(np.isfinite(value) for value in terms.values()) and terms["total"] > 0
    learnt = model.detector.parameters(learnt_only=True)
    unmoved = [name for name in learnt if np.array_equal(before[name], after[name])]
    assert len(unmoved) < 0.1 * len(learnt), unmoved
    assert all(np.isfinite(array).all() for array in after.values())

    # What an untrained network finds is noise, but it is the same noise out of the file.
    image = cv2.imread(str(data / "val" / "000000.jpg"))
    predictor = Predictor.of(model)
    found = predictor(image)
    assert len(found) > 0 and (np.diff(found.scores) <= 0).all()
    path = tmp_path / "x.nnp"
    write(model, path, tiny.SIDE, tiny.SIDE)
    exported = Predictor.of(replace(model))
    exported.network = NnpNetwork(path)
    again = exported(image)
    np.testing.assert_array_equal(again.labels, found.labels)
    np.testing.assert_allclose(again.scores, found.scores, atol=1e-5)
    np.testing.assert_allclose(again.boxes, found.boxes, atol=1e-2)
