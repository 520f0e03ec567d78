# SPDX-License-Identifier: Apache-2.0
"""DLAv0-34 with its head against the NNabla example and the official code; parameter names; layouts."""

import importlib.util
from pathlib import Path

import nnabla as nn
import numpy as np
import pytest

from pointdet.detectors import catalogue
from pointdet.errors import PointDetError
from pointdet.ops.layers import Mode
from pointdet.weights.fit import fit
from pointdet.weights.naming.catalogue import renamed

spec = importlib.util.spec_from_file_location("networks", Path(__file__).parents[1] / "networks.py")
networks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(networks)

DLA = {"arch": "dlav0", "num_layers": 34, "head_channels": 256}


def built(num_classes, channel_last=False, **model):
    """The detector with its parameters made."""
    precision = {"channel_last": channel_last, "mixed_precision": channel_last}
    detector = catalogue.build(
        networks.config(model={**DLA, **model}, mixed_precision=precision), num_classes
    )
    images, colour = nn.Variable((1, 64, 64, 3)), nn.Variable((1, detector.image_channels, 4))
    detector.outputs(images, colour, Mode(False, channel_last), nn.get_current_context())
    return detector


def assert_outputs(detector, arrays, mode):
    outputs = networks.run(detector, arrays["x"], False)
    for name, published in (("heatmap", "hm"), ("size", "wh"), ("offset", "reg")):
        networks.assert_close(outputs[name], arrays, f"{mode}/{published}")


@pytest.mark.parametrize("mode", ["A", "B"])
def test_nnabla_example(golden, mode):
    table, arrays = golden("networks.json")["sony_dlav0"], golden("network_sony_dlav0.npz")
    detector = built(20)
    for key, shape in table["parameters"]:
        if not key.startswith("fc/"):
            salt = "B/" if mode == "B" else ""
            value = networks.formula(key, shape, key.split("/")[-1], salt, table[f"gain_{mode}"])
            detector.parameters()[key].d = value
    assert_outputs(detector, arrays, mode)


@pytest.mark.parametrize("mode", ["A", "B"])
def test_official_code(golden, mode):
    table, arrays = golden("networks.json")["dlav0"], golden("network_dlav0.npz")
    detector = built(80, official_neck=True)
    report = fit(renamed(networks.published(table, mode), "dlav0"), detector.parameters(), False)
    assert not report.skipped + report.new + report.unused
    assert_outputs(detector, arrays, mode)


@pytest.mark.parametrize("channel_last", [False, True])
def test_parameters_are_those_of_published_files(golden, channel_last):
    table = golden("networks.json")["sony_dlav0"]
    expected = table["parameters_nhwc"] if channel_last else table["parameters"]
    ours = {name: list(v.shape) for name, v in built(20, channel_last).parameters().items()}
    assert ours == {name: shape for name, shape in expected if not name.startswith("fc/")}


def test_parameter_count():
    """Yu et al., 2018: 15.7 million with a classifier of 1000; the projections that nothing reads are not built."""
    parameters = built(80).parameters(learnt_only=True)
    base = sum(v.size for name, v in parameters.items() if name.startswith(("conv1/", "level")))
    assert base + 512 * 1000 + 1000 == 15_742_104


def test_gradients_do_not_depend_on_the_layout():
    networks.assert_layouts_agree({**DLA, "width": 0.25, "head_channels": 16})


def test_upsampling_starts_bilinear():
    weights = built(2, width=0.125).parameters()["up2_c/up/deconv/W"].d
    row = np.array([1, 3, 3, 1]) / 4
    np.testing.assert_array_equal(weights, np.broadcast_to(np.outer(row, row), weights.shape))


def test_there_is_one_depth():
    with pytest.raises(PointDetError, match="dlav0 has no depth 18; set it to 34"):
        built(2, num_layers=18)
