# SPDX-License-Identifier: Apache-2.0
"""CornerNet's networks against published ones: pooling modules, hourglass detectors, sizes, layouts."""

import corners
import networks
import nnabla as nn
import numpy as np
import pytest

from pointdet.config.schema import Config, DatasetConfig, ModelConfig
from pointdet.detectors import catalogue
from pointdet.detectors.cornernet.head import DIRECTIONS, corner_pooling
from pointdet.ops.layers import parameters_without_values
from pointdet.weights.naming import cornernet
from pointdet.weights.naming.catalogue import official
from pointdet.weights.naming.names import Names

MODULES = {"tl_pool": "top_left", "br_pool": "bottom_right"}


def built(num_classes=2, **model):
    config = Config(
        dataset=DatasetConfig(dataset="x", format="coco"),
        model={"arch": "hourglass", "num_layers": 104, "head_channels": 256, **model},
        detector={"name": "cornernet"},
    )
    detector = catalogue.build(config, num_classes)
    detector.make_parameters(config.model.granularity)
    return detector


@pytest.mark.parametrize("kernels", ["nnabla", "blas"])
@pytest.mark.parametrize("module", MODULES)
def test_published_pooling(golden, module, kernels):
    corner, ours = MODULES[module], Names(cornernet.heads(1)).ours

    def build(x, mode):
        with nn.parameter_scope(corner):
            return corner_pooling(x, DIRECTIONS[corner], 8, 128, mode)

    entries = golden("networks_cornernet.json")["pooling"][module]
    name_of = lambda key: ours(f"{module[:2]}_cnvs.0.{key}")
    arrays = golden("corner_pooling.npz")
    corners.assert_published_pooling(arrays, entries, "cornernet", module, kernels, build, name_of)


@pytest.mark.parametrize(
    ("layers", "table", "system", "count"),
    [
        (104, "hourglass104", "cornernet", 201_035_212),
        (104, "simple104", "simple", 201_035_212),
        (52, "simple52", "simple", 100_330_278),
    ],
)
def test_published_network(golden, layers, table, system, count):
    """The parameters. tests/conversion/test_import_published.py compares the outputs."""
    entries = golden("networks_cornernet.json")[table]
    with parameters_without_values():
        detector = built(80, num_layers=layers)
    names = official(ModelConfig(arch="hourglass", num_layers=layers), "cornernet")
    names = names.renamed(*cornernet.SIMPLE) if system == "simple" else names
    assert sum(v.size for v in detector.parameters(trainable_only=True).values()) == count
    published = {names.ours(key): np.prod(shape) for key, shape in entries["parameters"]}
    assert published == {name: v.size for name, v in detector.parameters().items()}


def test_any_backbone_and_layout():
    """NHWC and NCHW have equal outputs; a narrow head takes the features of any backbone."""
    found = []
    for channel_last in (False, True):
        config = Config(
            dataset=DatasetConfig(dataset="x", format="coco"),
            model={"arch": "dlav0", "num_layers": 34, "width": 0.125, "head_channels": 8},
            detector={"name": "cornernet"},
            mixed_precision={"channel_last": channel_last},
        )
        nn.seed(3)
        detector = catalogue.build(config, 3)
        x = np.random.default_rng(0).standard_normal((1, 3, 64, 32)).astype(np.float32)
        found.append(networks.run(detector, x, channel_last))
    assert {name: array.shape for name, array in found[0].items()} == {
        f"{corner}_{kind}": (1, channels, 16, 8)
        for corner in ("top_left", "bottom_right")
        for kind, channels in (("heatmap", 3), ("tag", 1), ("offset", 2))
    }
    for name, array in found[0].items():
        np.testing.assert_allclose(found[1][name], array, rtol=0, atol=1e-5 * np.abs(array).max())
