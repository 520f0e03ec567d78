# SPDX-License-Identifier: Apache-2.0
"""Every detector on every backbone in both layouts: train a step, export, load; same detections."""

import numpy as np
import onnx
import pytest
import tiny

from pointdet.export import nnp
from pointdet.export.onnx import convert
from pointdet.model.exported import NnpNetwork, OnnxNetwork
from pointdet.programs.flags import DETECTORS
from pointdet.structures import Annotation
from pointdet.training.graph import TrainingGraph
from pointdet.training.solver import Solver

BACKBONES = {name: flags for name, flags in tiny.NETWORKS.items() if "detector.name" not in flags[0]}
COUNT = 20


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.draw(tmp_path_factory.mktemp("data"), train=1, val=1)


def images(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


def with_contrast(model, pixels):
    """Scale the heatmaps of an untrained network. Rounding decides on the peaks of flat or saturated ones."""
    final = [
        variable
        for name, variable in model.detector.parameters().items()
        if name.endswith(("hm_final/conv/W", "heatmap_final/conv/W"))
    ]
    for _ in range(8):
        maps = model.network()(pixels)
        heatmaps = [maps[name] for name in model.detector.head.heatmaps]
        if (highest := max(heatmap.max() for heatmap in heatmaps)) < 0.9 and highest > 0.4:
            break
        for variable in final:
            variable.d = variable.d * (0.25 if highest >= 0.9 else 2)
    return model


def assert_same_maps(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].shape == array.shape and found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-4 * max(1, np.abs(array).max()))


def assert_same_detections(codec, one, other):
    """The best COUNT of each are among the best 4 * COUNT of the other; rounding may change their order."""
    first, second = (codec.decode({k: v[0] for k, v in maps.items()}, 4 * COUNT) for maps in (one, other))
    for few, many in ((first, second), (second, first)):
        assert len(few) >= COUNT
        for box, label, score in zip(few.boxes[:COUNT], few.labels, few.scores, strict=False):
            same = (many.labels == label) & (abs(many.boxes - box).max(axis=1) < 0.01)
            assert np.any(same & (abs(many.scores - score) < 1e-4))


def batch_of(model):
    """A batch of an image with one object and an image without objects."""
    codec, rng, samples = model.detector.codec, np.random.default_rng(0), []
    for boxes in ([[8, 12, 40, 52]], []):
        targets = {name: np.empty(shape, np.float32) for name, shape in codec.target_shapes().items()}
        assert codec.encode(Annotation.of(boxes, [1] * len(boxes)), targets) == 0
        image = rng.integers(0, 256, (tiny.SIDE, tiny.SIDE, 3), np.uint8)
        samples.append({"image": image, "colour": model.colour, "weight": np.float32(1), **targets})
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


def train_one_step(model):
    graph = TrainingGraph(model.config, model.detector, model.runtime)
    solver = Solver(model.config.train, model.config.mixed_precision, model.detector.parameters())
    batch, before = batch_of(model), tiny.parameters(model)
    solver.begin()
    graph.forward(batch, model.detector.loss.count(batch))
    terms = graph.values()
    graph.backward(1.0)
    solver.update(1e-4)
    assert all(np.isfinite(value) for value in terms.values()) and terms["total"] > 0
    after = tiny.parameters(model)
    assert all(np.isfinite(array).all() for array in after.values())
    trainable = model.detector.parameters(trainable_only=True)
    unchanged = [name for name in trainable if np.array_equal(before[name], after[name])]
    assert len(unchanged) < 0.1 * len(trainable), unchanged


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("detector", DETECTORS)
def test_train_and_export(tmp_path, data, detector, backbone, layout):
    pixels = images(1, 64, 64)
    channel_last = f"mixed_precision.channel_last={layout == 'NHWC'}"
    config = tiny.config(data, f"detector.name={detector}", channel_last, *BACKBONES[backbone])
    model = tiny.model(config)
    train_one_step(model)
    network, codec = with_contrast(model, pixels).network(), model.detector.codec
    expected = network(pixels)

    nnp.write(model, tmp_path / "x.nnp")
    in_nnabla = NnpNetwork(tmp_path / "x.nnp")
    assert_same_maps(in_nnabla(pixels), expected)
    assert_same_detections(codec, in_nnabla(pixels), expected)
    if layout == "NHWC":
        return  # exports are always NCHW, so that the rest is covered by the other layout

    converted = convert(model)
    onnx.checker.check_model(converted, full_check=True)
    in_onnx = OnnxNetwork(tmp_path / "x.onnx", converted.SerializeToString())
    assert_same_maps(in_onnx(pixels), expected)
    assert_same_detections(codec, in_onnx(pixels), expected)
    larger = images(2, 64, 128)  # another batch size and another image size
    assert_same_maps(in_onnx(larger), network(larger))
