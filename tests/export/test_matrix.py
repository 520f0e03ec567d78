# SPDX-License-Identifier: Apache-2.0
"""Every detector on every backbone, out of the house and back: the same maps, the same detections."""

import numpy as np
import onnx
import pytest
import tiny

from pointdet.config.flags import DETECTORS
from pointdet.export import nnp
from pointdet.export.onnx import convert
from pointdet.inference.exported import NnpNetwork, OnnxNetwork

BACKBONES = {name: flags for name, flags in tiny.NETWORKS.items() if "detector.name" not in flags[0]}
COUNT = 20


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.draw(tmp_path_factory.mktemp("data"), train=1, val=1)


def images(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


def with_contrast(model, pixels):
    """Nobody trained this network: where its heatmaps are flat or 1 all over, rounding decides what is a peak."""
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
    """The best of each are among the better ones of the other: almost the same scores may come in another order."""
    ours, theirs = (codec.decode({k: v[0] for k, v in maps.items()}, 4 * COUNT) for maps in (one, other))
    for few, many in ((ours, theirs), (theirs, ours)):
        assert len(few) >= COUNT
        for box, label, score in zip(few.boxes[:COUNT], few.labels, few.scores, strict=False):
            same = (many.labels == label) & (abs(many.boxes - box).max(axis=1) < 0.01)
            assert np.any(same & (abs(many.scores - score) < 1e-4))


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("detector", DETECTORS)
def test_same_network(tmp_path, data, detector, backbone):
    pixels = images(1, 64, 64)
    config = tiny.config(data, f"detector.name={detector}", *BACKBONES[backbone])
    model = with_contrast(tiny.model(config), pixels)
    network, codec = model.network(), model.detector.codec
    expected = network(pixels)

    made = convert(model)
    onnx.checker.check_model(made, full_check=True)
    in_onnx = OnnxNetwork(tmp_path / "x.onnx", made.SerializeToString())
    assert_same_maps(in_onnx(pixels), expected)
    assert_same_detections(codec, in_onnx(pixels), expected)
    larger = images(2, 64, 128)  # another batch, another size, the same file
    assert_same_maps(in_onnx(larger), network(larger))

    nnp.write(model, tmp_path / "x.nnp")
    in_nnabla = NnpNetwork(tmp_path / "x.nnp")
    assert_same_maps(in_nnabla(pixels), expected)
    assert_same_detections(codec, in_nnabla(pixels), expected)
