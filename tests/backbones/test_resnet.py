# SPDX-License-Identifier: Apache-2.0
"""ResNet with its head against the NNabla example and the official code; parameter names; layouts; depths."""

import importlib.util
from pathlib import Path

import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest

from pointdet.backbones.resnet import STAGES, resnet
from pointdet.backbones.widths import scaled
from pointdet.detectors import catalogue
from pointdet.errors import PointDetError
from pointdet.ops.layers import Mode
from pointdet.weights.fit import fit
from pointdet.weights.naming.catalogue import renamed

spec = importlib.util.spec_from_file_location("networks", Path(__file__).parents[1] / "networks.py")
networks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(networks)
config, run, assert_close = networks.config, networks.run, networks.assert_close


@pytest.mark.parametrize("mode", ["A", "B"])
@pytest.mark.parametrize("channel_last", [False, True])
def test_nnabla_example(golden, mode, channel_last):
    table, arrays = golden("networks.json")["sony18"], golden("network_sony18.npz")
    detector = catalogue.build(config(mixed_precision={"channel_last": channel_last}), 20)
    run(detector, arrays["x"], channel_last)  # makes the parameters
    for key, shape in table["parameters"]:
        if key.startswith("fc/"):
            continue
        value = networks.formula(
            key, shape, key.split("/")[-1], "B/" if mode == "B" else "", table[f"gain_{mode}"]
        )
        if channel_last and value.ndim == 4:
            value = value.transpose(0, 2, 3, 1)
        detector.parameters()[key].d = value
    outputs = run(detector, arrays["x"], channel_last)
    for name, published in (("heatmap", "hm"), ("size", "wh"), ("offset", "reg")):
        assert_close(outputs[name], arrays, f"{mode}/{published}")


@pytest.mark.parametrize("mode", ["A", "B"])
@pytest.mark.parametrize("depth", [18, 50])
def test_official_code(golden, depth, mode):
    table, arrays = golden("networks.json")[f"res{depth}"], golden(f"network_res{depth}.npz")
    detector = catalogue.build(config(model={"num_layers": depth}), 80)
    run(detector, arrays["x"], False)
    report = fit(renamed(networks.published(table, mode), "resnet"), detector.parameters(), False)
    assert not report.skipped + report.new + report.unused
    outputs = run(detector, arrays["x"], False)
    for name, published in (("heatmap", "hm"), ("size", "wh"), ("offset", "reg")):
        assert_close(outputs[name], arrays, f"{mode}/{published}")


@pytest.mark.parametrize("channel_last", [False, True])
def test_parameters_are_those_of_published_files(golden, channel_last):
    table = golden("networks.json")["sony18"]
    expected = table["parameters_nhwc"] if channel_last else table["parameters"]
    precision = {"channel_last": channel_last, "mixed_precision": channel_last}
    detector = catalogue.build(config(mixed_precision=precision), 20)
    images, colour = nn.Variable((1, 64, 64, 3)), nn.Variable((1, detector.image_channels, 4))
    detector.outputs(images, colour, Mode(False, channel_last), nn.get_current_context())
    ours = {name: list(v.shape) for name, v in detector.parameters().items()}
    assert ours == {name: shape for name, shape in expected if not name.startswith("fc/")}


def test_gradients_do_not_depend_on_the_layout():
    networks.assert_layouts_agree({"width": 0.125})


def test_joined_head_convolution_equals_separate_ones():
    nn.seed(1)
    detector = catalogue.build(config(model={"width": 0.125}), 4)
    feature = nn.Variable.from_numpy_array(np.random.default_rng(1).standard_normal((2, 32, 8, 8)))
    mode = Mode(training=False)
    with nn.parameter_scope("", detector.scope):
        outputs = detector.head(feature, mode)
    p = detector.parameters()
    for name, scope in (("heatmap", "hm"), ("size", "wh"), ("offset", "reg")):
        first, last = f"{scope}_conv1/conv", f"{scope}_final/conv"
        hidden = F.relu(F.convolution(feature, p[f"{first}/W"], p[f"{first}/b"], pad=(1, 1)))
        expected = F.convolution(hidden, p[f"{last}/W"], p[f"{last}/b"])
        expected.forward()
        outputs[name].forward()
        np.testing.assert_allclose(outputs[name].d, expected.d, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("depth", "millions"), [(18, 15.82), (101, 53.4)])
def test_parameter_counts(depth, millions):
    """The official code's counts for 80 classes; running statistics do not count."""
    detector = catalogue.build(config(model={"num_layers": depth}), 80)
    detector.outputs(
        nn.Variable((1, 32, 32, 3)), nn.Variable((1, 3, 4)), Mode(False), nn.get_current_context()
    )
    count = sum(v.size for v in detector.parameters(learnt_only=True).values())
    assert abs(count / 1e6 - millions) < 0.05


@pytest.mark.parametrize("depth", STAGES)
def test_stride_is_four(depth):
    feature = resnet(nn.Variable((1, 3, 96, 64)), depth, 0.25, Mode(False))[0]
    assert feature.shape == (1, 64, 24, 16)


def test_width_keeps_multiples_of_eight():
    assert [scaled(c, 0.3) for c in (64, 128, 256)] == [16, 40, 80]
    assert scaled(64, 0.01) == 8


def test_unknown_depth_names_the_known_ones():
    with pytest.raises(PointDetError, match="no depth 20; choose one of 18, 34, 50, 101, 152"):
        catalogue.build(config(model={"num_layers": 20}), 2)


def test_legacy_heatmap_bias():
    biases = {}
    for legacy in (False, True):
        detector = catalogue.build(
            config(model={"width": 0.125}, detector={"legacy_heatmap_bias": legacy}), 2
        )
        detector.outputs(
            nn.Variable((1, 32, 32, 3)), nn.Variable((1, 3, 4)), Mode(False), nn.get_current_context()
        )
        p = detector.parameters()
        biases[legacy] = float(p["hm_conv1/conv/b"].d[0]), float(p["hm_final/conv/b"].d[0])
    assert biases[False] == (0.0, pytest.approx(-2.19))
    assert biases[True] == (pytest.approx(-2.19), pytest.approx(-2.19))
