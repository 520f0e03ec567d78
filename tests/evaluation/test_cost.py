# SPDX-License-Identifier: Apache-2.0
"""The figures of the benchmark are consistent for every kind of network."""

import json
from dataclasses import replace

import pytest
import tiny

from pointdet.data.catalogue import read_dataset
from pointdet.errors import PointDetError
from pointdet.evaluation.cost import STAGES, measure_cost, table, write_cost
from pointdet.inference.predictor import Predictor


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.draw(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def records(data):
    return read_dataset(tiny.config(data).dataset, "train").records


def cost_of(records, data, *settings):
    model = tiny.model(tiny.config(data, *settings))
    return measure_cost(Predictor.of(model), model, records, "here"), model


@pytest.mark.parametrize("network", tiny.NETWORKS)
def test_cost_of_every_network(data, records, network, tmp_path):
    cost, model = cost_of(records[:3], data, *tiny.NETWORKS[network], "test.batch_size=2")
    assert list(cost.milliseconds) == list(STAGES) and min(cost.milliseconds.values()) > 0
    assert 1e3 / cost.images_per_second == pytest.approx(sum(cost.milliseconds.values()))
    assert cost.milliseconds["network"] > cost.milliseconds["other"]
    assert (cost.images, cost.batch_size, cost.input_sizes) == (3, 2, [(tiny.SIDE, tiny.SIDE)])
    trainable = model.detector.parameters(trainable_only=True)
    assert cost.parameters == sum(v.size for v in trainable.values())
    # Every weight is used at least once for each cell of the coarsest map, and at most once for each pixel.
    assert cost.parameters / 2 < 1e9 * cost.gmac < cost.parameters * tiny.SIDE**2
    assert cost.gflop == 2 * cost.gmac and 30 < cost.peak_memory_mb < 64000
    write_cost(tmp_path / "x" / "benchmark.json", cost)
    written = json.loads((tmp_path / "x" / "benchmark.json").read_text())
    assert written["milliseconds"] == cost.milliseconds and written["gmac"] == cost.gmac
    assert f"input {tiny.SIDE} x {tiny.SIDE}, here" in table(cost)


def test_multiply_adds_include_all_scales_and_mirror_images(data, records):
    once, _ = cost_of(records[:2], data)
    flipped, _ = cost_of(records[:2], data, "test.flip=true")
    scales, _ = cost_of(records[:2], data, "test.keep_resolution=true", "test.scales=[1, 2]")
    assert flipped.gmac == 2 * once.gmac
    assert scales.input_sizes == [(96, 96), (160, 160)]
    assert scales.gmac == pytest.approx((1.5**2 + 2.5**2) * once.gmac)
    assert "input 96 x 96 and 1 more, here" in table(scales)


def test_error_names_the_unreadable_image(data, records, tmp_path):
    absent = replace(records[0], image_path=str(tmp_path / "absent.png"))
    with pytest.raises(PointDetError, match="absent.png cannot be read: .*a benchmark needs images"):
        cost_of([absent], data)
