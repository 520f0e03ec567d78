# SPDX-License-Identifier: Apache-2.0
"""ImageNet backbones from PyTorch fill the whole backbone, and the first kernel has the network's colour order."""

import networks
import nnabla as nn
import numpy as np
import pytest

from pointdet.detectors import catalogue
from pointdet.ops.mode import Mode
from pointdet.weights.fit import fit
from pointdet.weights.imagenet import from_torch

HEADS = ("hm_", "wh_", "reg_")
NOT_IN_THE_FILE = {"resnet": ("upsample", *HEADS), "dlav0": ("up", *HEADS), "hrnet": HEADS}


def published(golden, arch, depth):
    """Random arrays by published key."""
    if arch == "hrnet":
        entries = networks.hrnet_parameters(depth)
    else:
        name = "dla34_imagenet" if arch == "dlav0" else f"torchvision_resnet{depth}"
        entries = dict(golden("published_keys.json")[name])
    rng = np.random.default_rng(0)
    return {key: rng.random(shape, np.float32) for key, shape in entries.items()}


@pytest.mark.parametrize("colour_order", ["bgr", "rgb"])
@pytest.mark.parametrize(("arch", "depth"), [("resnet", 18), ("dlav0", 34), ("hrnet", 18)])
def test_backbone_is_filled(golden, arch, depth, colour_order):
    arrays = published(golden, arch, depth)
    detector = catalogue.build(networks.config(model={"arch": arch, "num_layers": depth}), 2)
    images, colour = nn.Variable((1, 32, 32, 3)), nn.Variable((1, 3, 4))
    detector.outputs(images, colour, Mode(False), nn.get_current_context())
    report = fit(from_torch(arrays, arch, colour_order), detector.parameters(), channel_last=False)
    assert not report.skipped and not report.unused
    assert all(name.startswith(NOT_IN_THE_FILE[arch]) for name in report.new)
    assert not any(name.startswith(NOT_IN_THE_FILE[arch]) for name in report.kept)

    theirs = arrays["base_layer.0.weight" if arch == "dlav0" else "conv1.weight"]
    ours = detector.parameters()["conv1/conv/W"].d
    rgb = np.random.default_rng(1).random((3, *ours.shape[2:]))
    image = rgb[::-1] if colour_order == "bgr" else rgb
    np.testing.assert_allclose(np.tensordot(ours, image, 3), np.tensordot(theirs, rgb, 3), rtol=1e-6)


def test_arrays_of_the_file_are_not_changed(golden):
    arrays = published(golden, "resnet", 18)
    before = arrays["conv1.weight"].copy()
    from_torch(arrays, "resnet", "bgr")
    np.testing.assert_array_equal(arrays["conv1.weight"], before)
