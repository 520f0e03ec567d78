# SPDX-License-Identifier: Apache-2.0
"""Hourglass-52 and -104 against the official code; parameter counts and names; sizes; stacks; layouts."""

from itertools import pairwise

import networks
import nnabla as nn
import numpy as np
import pytest

from pointdet.backbones import hourglass
from pointdet.backbones.catalogue import imagenet_files
from pointdet.detectors import catalogue
from pointdet.errors import PointDetError
from pointdet.ops.layers import parameters_without_values
from pointdet.ops.mode import Mode
from pointdet.weights.naming.catalogue import official

HOURGLASS = {"arch": "hourglass", "num_layers": 104, "head_channels": 256}
TINY = {**HOURGLASS, "hourglass_levels": 2, "width": 0.0625, "head_channels": 8}


def built(num_classes=2, **model):
    """The detector with its parameters."""
    settings = networks.config(model=model)
    detector = catalogue.build(settings, num_classes)
    detector.make_parameters(settings.model.granularity)
    return detector


@pytest.fixture(scope="module")
def whole():
    """Hourglass-104 for 80 classes: 191 million parameters without values."""
    with parameters_without_values():
        return built(80, **HOURGLASS)


def test_official_code(golden, whole):
    """The parameters. tests/conversion/test_import_published.py compares the outputs."""
    names = official(networks.config(model=HOURGLASS).model, "ctdet")
    table = golden("network_hourglass104.json")["parameters"]
    published = {names.ours(key): np.prod(shape) for key, shape in table}
    assert published == {name: v.size for name, v in whole.parameters().items()}


def test_parameter_counts(golden, whole):
    """Counts of the parts of the published networks."""
    trainable = {name: v.size for name, v in whole.parameters(trainable_only=True).items()}

    def count(*beginnings):
        return sum(size for name, size in trainable.items() if name.startswith(beginnings))

    assert count("conv1/", "res1/") == 938_112
    for stack in ("stack1", "stack2"):
        assert count(f"{stack}/level", f"{stack}/bottom/") == 92_134_400
        assert count(f"{stack}/feature/") == 590_336
        assert count(f"{stack}/hm_", f"{stack}/reg_", f"{stack}/wh_") == 610_640 + 2 * 590_594
    levels = ((2_361_344, 2_427_392, 2_361_344), (2_361_344, 4_968_192, 4_230_144))
    levels += 2 * ((5_311_488, 5_459_712, 5_311_488),) + ((5_311_488, 9_049_088, 8_016_128),)
    for level, sizes in enumerate(levels, 1):
        branches = (f"stack2/level{level}/{branch}/" for branch in ("skip", "down", "up"))
        assert tuple(count(branch) for branch in branches) == sizes
    assert count("stack1/bottom/") == 18_882_560
    assert count("stack2/merge/input/") == count("stack2/merge/feature/") == 66_048
    assert count("stack2/merge/basicblock") == 1_180_672
    table = golden("network_hourglass104.json")["parameters"]
    published = sum(int(np.prod(shape)) for key, shape in table if ".running_" not in key)
    assert sum(trainable.values()) == published == 191_284_008


def test_one_stack_has_the_parameters_of_the_first_of_two():
    """Its head has no scope, as in every detector with one stack."""
    two = {name: v.shape for name, v in built(**TINY).parameters().items()}
    one = {name: v.shape for name, v in built(**{**TINY, "num_layers": 52}).parameters().items()}
    heads = ("stack1/hm_", "stack1/reg_", "stack1/wh_")
    first = {name: shape for name, shape in two.items() if not name.startswith("stack2/")}
    assert one == {
        name.removeprefix("stack1/") if name.startswith(heads) else name: first[name] for name in first
    }


@pytest.mark.parametrize(("levels", "widths"), [(1, (256, 512)), (3, (256, 256, 384, 512))])
def test_fewer_levels_use_the_first_ones_and_the_bottom(levels, widths):
    parameters = built(**{**TINY, "hourglass_levels": levels, "width": 0.125}).parameters()
    assert f"stack1/level{levels + 1}/down/layer1/basicblock1/conv/W" not in parameters
    for level, (outer, inner) in enumerate(pairwise(widths), 1):
        shape = parameters[f"stack2/level{level}/down/layer1/basicblock1/conv/W"].shape
        assert shape == (inner // 8, outer // 8, 3, 3)
    assert parameters["stack2/bottom/layer4/basicblock2/conv/W"].shape == (64, 64, 3, 3)


@pytest.mark.parametrize(
    ("levels", "sides", "cells"),
    [
        (5, (511, 511), (128, 128)),
        (5, (255, 383), (64, 96)),
        (5, (128, 509), (32, 128)),
        (2, (48, 31), (12, 8)),
    ],
)
def test_sizes(levels, sides, cells):
    features = hourglass.hourglass(nn.Variable((1, 3, *sides)), 2, levels, 0.0625, Mode(False))
    assert [feature.shape for feature in features] == [(1, 16, *cells)] * 2


def test_initial_values_have_the_distribution_of_pytorch():
    parameters = built(**{**TINY, "width": 0.25}).parameters()
    for scope in (
        "conv1",
        "res1/basicblock_s/shortcut_conv",
        "stack1/level2/down/layer1/basicblock1",
        "stack2/merge/input",
    ):
        weights = parameters[f"{scope}/conv/W"].d
        bound = 1 / np.sqrt(weights[0].size)
        assert 0.98 * bound < np.abs(weights).max() <= bound
        assert weights.std() == pytest.approx(bound / np.sqrt(3), rel=0.05)


def test_gradients_do_not_depend_on_the_layout():
    networks.assert_layouts_agree(TINY)


def test_unknown_depth_and_imagenet_parameters_are_refused():
    with pytest.raises(PointDetError, match="hourglass has no depth 34; choose one of 52, 104"):
        built(arch="hourglass", num_layers=34)
    with pytest.raises(PointDetError, match="the hourglass has no published ImageNet parameters; set it"):
        imagenet_files(networks.config(model=HOURGLASS).model, False)
