# SPDX-License-Identifier: Apache-2.0
"""Names of the published ImageNet HRNets. Only the classifier has no parameter here."""

import networks
import nnabla as nn
import numpy as np
import pytest

from pointdet.backbones.hrnet import hrnet
from pointdet.ops.mode import Mode
from pointdet.weights.naming.hrnet import TRUNK
from pointdet.weights.naming.names import Names

our_name = Names(TRUNK).ours


@pytest.mark.parametrize(("channels", "trainable"), [(18, 21_299_004), (32, 41_232_680), (48, 77_469_864)])
def test_number_of_keys_and_parameters_is_the_published_one(channels, trainable):
    """For the keys that `networks.hrnet_parameters` generates for the tests."""
    entries = networks.hrnet_parameters(channels)
    assert len(entries) == 1956
    assert sum(key.endswith("num_batches_tracked") for key in entries) == 325
    ends = ("weight", "bias")
    assert sum(int(np.prod(shape)) for key, shape in entries.items() if key.endswith(ends)) == trainable


def test_every_parameter_has_one_key():
    hrnet(nn.Variable((1, 3, 32, 32)), 18, 4, 1.0, Mode(False))
    shapes = {}
    for key, shape in networks.hrnet_parameters(18).items():
        name = our_name(key)
        assert name not in shapes, f"{key} is another key of {name}"
        if name is not None:
            shapes[name] = (1, *shape, 1, 1) if "/bn/" in name else tuple(shape)
    assert shapes == {name: v.shape for name, v in nn.get_parameters(grad_only=False).items()}


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("conv1.weight", "conv1/conv/W"),
        ("bn2.running_var", "conv2/bn/var"),
        ("layer1.0.downsample.0.weight", "layer1/0/downsample/conv/W"),
        ("layer1.3.bn3.bias", "layer1/3/conv3/bn/beta"),
        ("transition1.0.1.weight", "transition1/0/bn/gamma"),
        ("transition3.3.0.0.weight", "transition3/3/0/conv/W"),
        ("stage4.2.branches.3.1.conv2.weight", "stage4/2/branches/3/1/conv2/conv/W"),
        ("stage4.2.fuse_layers.0.3.0.weight", "stage4/2/fuse_layers/0/3/conv/W"),
        ("stage4.2.fuse_layers.3.0.2.1.running_mean", "stage4/2/fuse_layers/3/0/2/bn/mean"),
        ("stage4.2.fuse_layers.3.0.2.1.num_batches_tracked", None),
        ("incre_modules.0.0.conv1.weight", None),
        ("downsamp_modules.0.0.bias", None),
        ("final_layer.0.weight", None),
        ("classifier.bias", None),
    ],
)
def test_names(key, name):
    assert our_name(key) == name
