# SPDX-License-Identifier: Apache-2.0
"""The networks of keypoint triplets against published ones: pooling modules, whole detectors, sizes."""

import corners
import networks
import nnabla as nn
import numpy as np
import pytest

from pointdet.detectors import catalogue
from pointdet.detectors.cornernet.head import DIRECTIONS
from pointdet.detectors.triplet.head import cascade_corner_pooling, centre_pooling
from pointdet.ops.layers import parameters_without_values
from pointdet.weights.naming import triplet
from pointdet.weights.naming.catalogue import official
from pointdet.weights.naming.names import Names

MODULES = {"tl_pool": "top_left", "br_pool": "bottom_right", "center_pool": "centre"}
KEYPOINTS = {"tl": "top_left", "br": "bottom_right", "ct": "centre"}


def built(num_classes=80, **model):
    config = networks.config(model=model, detector={"name": "triplet"})
    detector = catalogue.build(config, num_classes)
    detector.make_parameters(config.model.granularity)
    return detector


def size(detector):
    return sum(v.size for v in detector.parameters(trainable_only=True).values())


@pytest.mark.parametrize("kernels", ["nnabla", "blas"])
@pytest.mark.parametrize("module", MODULES)
def test_published_pooling(golden, module, kernels):
    keypoint, ours = MODULES[module], Names(triplet.heads(1)).ours

    def build(x, mode):
        with nn.parameter_scope(keypoint):
            if keypoint == "centre":
                return centre_pooling(x, 8, 128, mode)
            return cascade_corner_pooling(x, DIRECTIONS[keypoint], 8, 128, mode)

    short = next(short for short, name in KEYPOINTS.items() if name == keypoint)
    name_of = lambda key: ours(f"{short}_cnvs.0.{key}")
    arrays, entries = golden("triplet_pooling.npz"), golden("networks_triplet.json")["pooling"][module]
    corners.assert_published_pooling(arrays, entries, "triplet", module, kernels, build, name_of)


@pytest.mark.parametrize(
    ("layers", "count"), [(52, 104_844_152), (104, 210_062_960)], ids=["Hourglass-52", "Hourglass-104"]
)
def test_published_network(golden, layers, count):
    """The parameters. tests/conversion/test_import_published.py compares the outputs."""
    entries = golden("networks_triplet.json")[f"triplet{layers}"]
    with parameters_without_values():
        detector = built(arch="hourglass", num_layers=layers, head_channels=256)
    assert size(detector) == count
    names = official(networks.config(model={"arch": "hourglass", "num_layers": layers}).model, "triplet")
    published = {names.ours(key): np.prod(shape) for key, shape in entries["parameters"]}
    assert published == {name: v.size for name, v in detector.parameters().items()}


@pytest.mark.parametrize(
    ("arch", "num_layers", "hidden", "count"),
    [
        ("hrnet", 18, 270, 21_627_788),
        ("hrnet", 32, 480, 45_779_384),
        ("hrnet", 48, 720, 86_837_048),
        # The published sum has 41,728 parameters more, of two projections that nothing reads.
        ("dla", 34, 64, 26_952_344 - 41_728),
    ],
)
def test_sizes_of_the_extension(arch, num_layers, hidden, count):
    with parameters_without_values():
        detector = built(arch=arch, num_layers=num_layers, feature_channels=256, head_channels=hidden)
    assert size(detector) == count


@pytest.mark.parametrize("arch", ["dlav0", "hourglass"])
def test_any_width_and_layout(arch):
    """NHWC gives what NCHW gives, with pooling of other channels than features and heads."""
    depth = {"dlav0": 34, "hourglass": 104}[arch]
    model = {"arch": arch, "num_layers": depth, "width": 0.125, "head_channels": 8, "feature_channels": 12}
    if arch == "hourglass":
        model["hourglass_levels"] = 2
    found = []
    for channel_last in (False, True):
        nn.seed(3)
        config = networks.config(
            model=model, detector={"name": "triplet"}, mixed_precision={"channel_last": channel_last}
        )
        detector = catalogue.build(config, 3)
        x = np.random.default_rng(0).standard_normal((1, 3, 64, 32)).astype(np.float32)
        found.append(networks.run(detector, x, channel_last))
    assert {name: array.shape for name, array in found[0].items()} == {
        f"{keypoint}_{kind}": (1, channels, 16, 8)
        for keypoint in KEYPOINTS.values()
        for kind, channels in (("heatmap", 3), ("tag", 1), ("offset", 2))
        if (keypoint, kind) != ("centre", "tag")
    }
    for name, array in found[0].items():
        np.testing.assert_allclose(found[1][name], array, rtol=0, atol=1e-5 * np.abs(array).max())
