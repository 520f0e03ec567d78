# SPDX-License-Identifier: Apache-2.0
"""Copying stored arrays into a network: layouts, input channels, and the report of arrays that do not fit."""

import nnabla as nn
import numpy as np
import pytest

from pointdet.config.schema import Config, DatasetConfig
from pointdet.detectors import catalogue
from pointdet.errors import PointDetError
from pointdet.model.network import build_graph
from pointdet.runtime import start
from pointdet.weights.fit import converted, fit, fit_all, is_channel_last

BIAS = "hm_final/conv/b"


def build(num_classes=3, channel_last=False, channels=3, **model):
    """A small detector with its initial parameters."""
    config = Config(
        dataset=DatasetConfig(dataset="x", format="coco"),
        model={"width": 0.125, "head_channels": 8, **model},
        # Half precision uses four input channels.
        mixed_precision={"channel_last": channel_last, "mixed_precision": channels == 4},
    )
    detector = catalogue.build(config, num_classes)
    build_graph(detector, start(), half=False, shape=(1, 32, 32))
    return detector


def randomised(detector, seed):
    """Give all parameters random values, also biases and statistics."""
    rng = np.random.default_rng(seed)
    for name, variable in detector.parameters().items():
        noise = rng.standard_normal(variable.shape, np.float32)
        variable.d = np.abs(noise) if name.endswith("/var") else noise
    return detector


def values(detector):
    return {name: np.array(v.d, np.float32) for name, v in detector.parameters().items()}


def assert_equal(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def fitted(arrays, detector):
    fit_all(arrays, detector.parameters(), detector.channel_last, BIAS, "x.h5")
    return values(detector)


def test_layouts_are_converted_in_both_directions():
    first = values(randomised(build(), 0))
    assert not is_channel_last(first)
    last = fitted(first, build(channel_last=True))
    assert is_channel_last(last)
    assert last["res1/layer1/basicblock1/conv/W"].shape == (8, 3, 3, 8)
    np.testing.assert_array_equal(
        last["upsample1/deconv/W"], first["upsample1/deconv/W"].transpose(0, 2, 3, 1)
    )
    assert_equal(converted(last, channel_last=False), first)
    assert_equal(fitted(last, build()), first)
    assert_equal(fitted(last, build(channel_last=True)), last)


def test_outputs_do_not_depend_on_the_layout():
    first, last = randomised(build(), 1), build(channel_last=True)
    fitted(values(first), last)
    images = np.random.default_rng(2).integers(0, 256, (1, 32, 32, 3), np.uint8)
    outputs = []
    for detector in (first, last):
        graph = build_graph(detector, start(), half=False, shape=(1, 32, 32))
        graph.images.d, graph.colour.d = images, np.eye(3, 4) / 255
        for name, variable in graph.outputs.items():
            variable.forward()
            outputs.append((name, variable.d.copy()))
    for (name, one), (same, other) in zip(outputs[:3], outputs[3:], strict=True):
        assert name == same
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(one).max())


@pytest.mark.parametrize("channel_last", [False, True])
def test_three_and_four_input_channels(channel_last):
    three = values(randomised(build(channel_last=channel_last), 0))
    four = fitted(three, build(channel_last=channel_last, channels=4))
    stem = np.moveaxis(four["conv1/conv/W"], 3 if channel_last else 1, 0)
    assert stem.shape[0] == 4 and not stem[3].any()
    assert_equal(fitted(four, build(channel_last=channel_last)), three)


def test_layout_and_input_channels():
    """The published half precision files are in NHWC with four channels."""
    published = values(randomised(build(channel_last=True, channels=4), 0))
    found = fitted(published, build())
    np.testing.assert_array_equal(
        found["conv1/conv/W"], published["conv1/conv/W"].transpose(0, 3, 1, 2)[:, :3]
    )


def test_report_of_fine_tuning():
    arrays = values(randomised(build(num_classes=80), 0))
    arrays["fc/affine/W"] = arrays["fc/affine/b"] = np.zeros(7, np.float32)
    del arrays["wh_final/conv/b"]
    arrays["older/W"] = np.zeros(3, np.float32)
    detector = randomised(build(num_classes=3), 1)
    before = values(detector)
    report = fit(arrays, detector.parameters(), channel_last=False)
    after = values(detector)
    changed = {name for name in after if not np.array_equal(after[name], before[name])}
    assert changed == set(report.kept)
    for name in report.kept:
        np.testing.assert_array_equal(after[name], arrays[name])
    assert set(before) - changed == {"hm_final/conv/W", BIAS, "wh_final/conv/b"}
    assert report.skipped == (
        "hm_final/conv/W (80, 8, 1, 1) for (3, 8, 1, 1)",
        "hm_final/conv/b (80,) for (3,)",
    )
    assert report.new == ("wh_final/conv/b",)
    assert report.unused == ("older/W",)  # without the ImageNet classifier
    assert report.describe().splitlines() == [
        f"kept {len(before) - 3}, skipped 2, new 1 parameters",
        f"  skipped: {', '.join(report.skipped)}",
        "  new: wh_final/conv/b",
        "  not in this network: older/W",
    ]


def test_long_lists_of_names_are_shortened():
    detector = build()
    report = fit({}, detector.parameters(), channel_last=False)
    assert not report.kept and len(report.new) == len(detector.parameters())
    assert len(report.describe().splitlines()) == 2
    assert report.describe().endswith(f", and {len(report.new) - 6} more")


def test_fit_all_refuses_parameters_that_do_not_fit():
    arrays = values(build(num_classes=4))
    with pytest.raises(PointDetError, match="x.h5 was trained for 4 classes, but 3 are requested"):
        fitted(arrays, build(num_classes=3))
    with pytest.raises(
        PointDetError, match=r"x.h5 does not fit this network in \d+ parameters \(first: conv1"
    ):
        fitted(arrays, build(num_classes=4, width=0.25))
    with pytest.raises(PointDetError, match=r"first: res1/layer3/.* is missing.; check arch, num_layers"):
        fitted(arrays, build(num_classes=4, num_layers=34))
    del arrays["conv1/bn/mean"]
    with pytest.raises(PointDetError, match="in 1 parameters .first: conv1/bn/mean is missing"):
        fitted(arrays, build(num_classes=4))


def test_detectors_do_not_share_parameters():
    one, other = randomised(build(), 0), randomised(build(), 1)
    assert not np.array_equal(values(one)["conv1/conv/W"], values(other)["conv1/conv/W"])
    assert not nn.get_parameters()


@pytest.mark.parametrize("name", [BIAS, "conv1/conv/W"])
@pytest.mark.parametrize("shape", [(), (3,), (1, 2, 3)])
def test_arrays_with_another_number_of_axes_do_not_fit(name, shape):
    detector = build(num_classes=2)
    arrays = values(detector) | {name: np.zeros(shape, np.float32)}
    with pytest.raises(
        PointDetError, match="x.h5 (does not fit this network in 1 parameters|was trained for 3 classes)"
    ):
        fit_all(arrays, detector.parameters(), False, BIAS, "x.h5")
