# SPDX-License-Identifier: Apache-2.0
"""ResNets with head against the NNabla example and the official code; parameters; layouts; depths."""

import networks
import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest

from pointdet.backbones.catalogue import imagenet_files
from pointdet.backbones.resnet import STAGES, resdcn, resnet
from pointdet.backbones.widths import scaled
from pointdet.detectors import catalogue
from pointdet.errors import PointDetError
from pointdet.ops.mode import Mode
from pointdet.weights.fit import fit
from pointdet.weights.naming.catalogue import official, to_ours

config, run = networks.config, networks.run


def assert_outputs(detector, arrays, mode, channel_last=False):
    names = {"heatmap": f"{mode}/hm", "size": f"{mode}/wh", "offset": f"{mode}/reg"}
    networks.assert_golden(detector, arrays, Mode(False, channel_last), names)


@pytest.mark.parametrize("mode", ["A", "B"])
@pytest.mark.parametrize("channel_last", [False, True])
def test_nnabla_example(golden, mode, channel_last):
    table, arrays = golden("networks.json")["sony18"], golden("network_sony18.npz")
    detector = catalogue.build(config(mixed_precision={"channel_last": channel_last}), 20)
    run(detector, arrays["x"], channel_last)  # creates the parameters
    for key, shape in table["parameters"]:
        if key.startswith("fc/"):
            continue
        value = networks.formula(
            key, shape, key.split("/")[-1], "B/" if mode == "B" else "", table[f"gain_{mode}"]
        )
        if channel_last and value.ndim == 4:
            value = value.transpose(0, 2, 3, 1)
        detector.parameters()[key].d = value
    assert_outputs(detector, arrays, mode, channel_last)


@pytest.mark.parametrize("mode", ["A", "B"])
@pytest.mark.parametrize(
    ("arch", "depth", "tables", "name"),
    [
        ("resnet", 18, "networks.json", "res18"),
        ("resnet", 50, "networks.json", "res50"),
        ("resdcn", 18, "networks_deformable.json", "resdcn18"),
    ],
    ids=["res_18", "res_50", "resdcn_18"],
)
def test_official_code(golden, arch, depth, tables, name, mode):
    table, arrays = golden(tables)[name], golden(f"network_{name}.npz")
    settings = config(model={"arch": arch, "num_layers": depth})
    detector = catalogue.build(settings, 80)
    run(detector, arrays["x"], False)
    ours = to_ours(networks.published(table, mode), official(settings.model, "ctdet"))
    report = fit(ours, detector.parameters(), False)
    assert not report.skipped + report.new + report.unused
    assert_outputs(detector, arrays, mode)


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


@pytest.mark.parametrize("arch", ["resnet", "resdcn"])
def test_gradients_do_not_depend_on_the_layout(arch):
    networks.assert_layouts_agree({"arch": arch, "width": 0.125})


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


@pytest.mark.parametrize(
    ("arch", "depth", "millions"),
    [("resnet", 18, 15.82), ("resnet", 101, 53.4), ("resdcn", 18, 14.44), ("resdcn", 101, 49.7)],
)
def test_parameter_counts(arch, depth, millions):
    """Counts of the official code for 80 classes, without running statistics."""
    detector = catalogue.build(config(model={"arch": arch, "num_layers": depth}), 80)
    detector.outputs(
        nn.Variable((1, 32, 32, 3)), nn.Variable((1, 3, 4)), Mode(False), nn.get_current_context()
    )
    count = sum(v.size for v in detector.parameters(trainable_only=True).values())
    assert abs(count / 1e6 - millions) < 0.05


@pytest.mark.parametrize("depth", STAGES)
@pytest.mark.parametrize(("network", "channels"), [(resnet, 64), (resdcn, 16)])
def test_stride_is_four(network, channels, depth):
    feature = network(nn.Variable((1, 3, 96, 64)), depth, 0.25, Mode(False))[0]
    assert feature.shape == (1, channels, 24, 16)


def test_initial_deconvolutions_of_resdcn_are_those_of_the_official_code():
    """Bilinear to the first output channel, uniform to all others."""
    resdcn(nn.Variable((1, 3, 32, 32)), 18, 1, Mode(False))
    w = nn.get_parameters()["upsample3/deconv/W"].d
    row = np.array([1, 3, 3, 1]) / 4
    np.testing.assert_array_equal(w[:, 0], np.broadcast_to(np.outer(row, row), (64, 4, 4)))
    bound = 1 / np.sqrt(64 * 16)
    assert 0.95 * bound < np.abs(w[:, 1:]).max() <= bound


def test_scaled_channels_are_multiples_of_eight():
    assert [scaled(c, 0.3) for c in (64, 128, 256)] == [16, 40, 80]
    assert scaled(64, 0.01) == 8


def test_unknown_depth_names_the_known_ones():
    with pytest.raises(PointDetError, match="no depth 20; choose one of 18, 34, 50, 101, 152"):
        catalogue.build(config(model={"num_layers": 20}), 2)


@pytest.mark.parametrize("arch", ["resnet", "resdcn"])
def test_both_use_the_same_imagenet_parameters(arch):
    files = imagenet_files(config(model={"arch": arch}).model, channel_last=False)
    assert files == [
        "resnet18_nchw_imagenet.h5",
        "resnet18_nhwc_imagenet.h5",
        "resnet18.pth",
        "resnet18-*.pth",
    ]


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
