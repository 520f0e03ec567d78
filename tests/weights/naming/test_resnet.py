# SPDX-License-Identifier: Apache-2.0
"""Names of torchvision's ResNets and of official CenterNet's `res_N`."""

import pytest

from pointdet.weights.naming import ctdet, resnet
from pointdet.weights.naming.names import Names


def our_name(key, bottleneck):
    return Names(resnet.trunk(bottleneck) + resnet.UPSAMPLING + ctdet.heads(0)).ours(key)


def names_of(keys, bottleneck):
    """Our paths, which must be different for different keys."""
    found = [name for key in keys if (name := our_name(key, bottleneck)) is not None]
    assert len(found) == len(set(found))
    return set(found)


def test_same_names_as_the_nnabla_example(golden):
    tables = golden("networks.json")
    example = {name for name, _ in tables["sony18"]["parameters"] if not name.startswith("fc/")}
    assert names_of((key for key, _ in tables["res18"]["parameters"]), False) == example
    imagenet = names_of((key for key, _ in golden("published_keys.json")["torchvision_resnet18"]), False)
    assert imagenet == {name for name in example if name.startswith(("conv1/", "res"))}


@pytest.mark.parametrize("depth", [18, 50])
def test_backbone_has_the_same_paths_in_both_files(golden, depth):
    """The ImageNet file of torchvision and the detector of official CenterNet."""
    bottleneck = depth == 50
    detector = names_of((key for key, _ in golden("networks.json")[f"res{depth}"]["parameters"]), bottleneck)
    keys = [key for key, _ in golden("published_keys.json")[f"torchvision_resnet{depth}"]]
    backbone = names_of(keys, bottleneck)
    assert backbone == {name for name in detector if name.startswith(("conv1/", "res"))}
    dropped = {key for key in keys if our_name(key, bottleneck) is None}
    assert {key for key in dropped if not key.endswith("num_batches_tracked")} == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("bn1.running_mean", "conv1/bn/mean"),
        ("layer2.0.conv1.weight", "res2/layer1/bottleneck1/conv/W"),
        ("layer2.0.bn3.weight", "res2/layer1/bottleneck3/bn/gamma"),
        ("layer4.0.downsample.1.bias", "res4/layer1/bottleneck_s/shortcut_conv/bn/beta"),
        ("deconv_layers.3.weight", "upsample2/deconv/W"),
        ("deconv_layers.7.running_var", "upsample3/bn/var"),
        ("hm.0.bias", "hm_conv1/conv/b"),
        ("wh.2.weight", "wh_final/conv/W"),
        ("layer1.0.bn1.num_batches_tracked", None),
        ("fc.weight", None),
        ("stage2.0.branches.0.0.conv1.weight", None),
    ],
)
def test_names(key, name):
    assert our_name(key, bottleneck=True) == name
