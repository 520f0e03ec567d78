# SPDX-License-Identifier: Apache-2.0
"""The inference network of NNabla: one graph per shape, independent images, probabilities."""

import nnabla.functions as F
import numpy as np
import pytest
import tiny

from pointdet.model.network import build_graph


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.model(tiny.config(tmp_path_factory.mktemp("data")))


def images(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


def test_a_graph_is_built_once_for_each_shape(model, monkeypatch):
    shapes = []

    def build(*arguments):
        shapes.append(arguments[-1])
        return build_graph(*arguments)

    monkeypatch.setattr("pointdet.model.network.build_graph", build)
    network = model.network()
    first, _, again = network(images(1, 64, 64)), network(images(2, 64, 96)), network(images(1, 64, 64))
    assert shapes == [(1, 64, 64), (2, 64, 96)]
    for name, array in first.items():
        np.testing.assert_array_equal(again[name], array)


def test_images_of_a_batch_are_independent(model):
    network, pixels = model.network(), images(3, 64, 64)
    batch = network(pixels)
    assert {name: array.shape for name, array in batch.items()} == {
        "heatmap": (3, len(tiny.CLASS_NAMES), 16, 16),
        "size": (3, 2, 16, 16),
        "offset": (3, 2, 16, 16),
    }
    assert 0 < batch["heatmap"].min() and batch["heatmap"].max() < 1
    for index in range(3):
        for name, array in network(pixels[index : index + 1]).items():
            np.testing.assert_allclose(batch[name][index], array[0], rtol=1e-4, atol=1e-5)


def test_the_exportable_graph_has_the_same_maps(model):
    pixels = images(1, 64, 64)
    graph = build_graph(model.detector, model.runtime, half=False, shape=(1, 64, 64), exportable=True)
    graph.images.d, graph.colour.d = pixels, model.colour
    F.sink(*graph.outputs.values()).forward()
    for name, array in model.network()(pixels).items():
        np.testing.assert_allclose(graph.outputs[name].d, array, rtol=1e-4, atol=1e-5)


def test_the_least_recently_used_graph_leaves(model, monkeypatch):
    shapes = []

    def build(*arguments):
        shapes.append(arguments[-1])
        return build_graph(*arguments)

    monkeypatch.setattr("pointdet.model.network.build_graph", build)
    monkeypatch.setattr("pointdet.model.network.MAX_GRAPHS", 2)
    network = model.network()
    expected = {side: network(images(1, side, side)) for side in (32, 64)}
    for side in (32, 96, 32, 64):  # 96 replaces 64, then 64 replaces 96
        for name, array in network(images(1, side, side)).items():
            np.testing.assert_array_equal(array, expected.setdefault(side, {}).get(name, array))
    assert [side for _, side, _ in shapes] == [32, 64, 96, 64]
