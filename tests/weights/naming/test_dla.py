# SPDX-License-Identifier: Apache-2.0
"""Names of DLA-34 with and without `base.`, and the order of concatenated maps."""

import numpy as np
import pytest

from pointdet.weights.naming import ctdet, dla
from pointdet.weights.naming.dla import input_order
from pointdet.weights.naming.names import Names, prefixed

our_name = Names(dla.TRUNK + prefixed("base.", dla.TRUNK) + dla.NECK + ctdet.heads(0)).ours


def names_of(keys):
    """Our paths, which must be different for different keys."""
    found = [name for key in keys if (name := our_name(key)) is not None]
    assert len(found) == len(set(found))
    return set(found)


def test_same_names_as_the_nnabla_example(golden):
    tables = golden("networks.json")
    example = {name for name, _ in tables["sony_dlav0"]["parameters"] if not name.startswith("fc/")}
    assert names_of(key for key, _ in tables["dlav0"]["parameters"]) == example
    imagenet = [key for key, _ in golden("published_keys.json")["dla34_imagenet"]]
    assert names_of(imagenet) == {name for name in example if name.startswith(("conv1/", "level"))}
    dropped = {key for key in imagenet if our_name(key) is None}
    assert {key.rpartition(".")[0] for key in dropped if not key.endswith("num_batches_tracked")} == {
        "fc",
        *(f"level{level}.project.{place}" for level in (3, 4) for place in (0, 1)),
    }


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("base.base_layer.0.weight", "conv1/conv/W"),
        ("level1.1.running_mean", "level1/conv1/bn/mean"),
        ("base.level2.tree1.conv2.weight", "level2/block1/basicblock2/conv/W"),
        ("level3.tree2.tree1.bn1.weight", "level3/node2/block1/basicblock1/bn/gamma"),
        ("level4.tree1.project.1.bias", "level4/node1/bn/beta"),
        ("level5.root.conv.weight", "level5/root/conv/W"),
        ("level4.project.0.weight", None),
        ("dla_up.ida_1.up_2.weight", "up8/up/deconv/W"),
        ("dla_up.ida_1.proj_2.0.weight", "up8/up/conv/W"),
        ("dla_up.ida_2.node_3.1.running_var", "up2_c/x_root/root/bn/var"),
        ("reg.2.bias", "reg_final/conv/b"),
        ("fc.weight", None),
    ],
)
def test_names(key, name):
    assert our_name(key) == name


@pytest.mark.parametrize(
    ("name", "out", "official"),
    [
        # Input channels of the official kernel and of ours: one letter per map, once for each channel.
        ("level2/root/conv/W", 2, ("bbaa", "aabb")),
        ("level5/root/conv/W", 2, ("bbaap", "aapbb")),
        ("level3/node2/root/conv/W", 2, ("bbaapii", "aaiibbp")),
        ("up8/root/conv/W", 2, ("lluu", "uull")),
        ("up2_c/level3up_c_root/root/conv/W", 2, ("lluu", "lluu")),
        ("level3/node2/block1/basicblock1/conv/W", 2, ("abc", "abc")),
    ],
)
def test_order_of_concatenated_maps(name, out, official):
    theirs, ours = (np.array(list(letters)) for letters in official)
    order = input_order(name, np.zeros((out, len(theirs), 3, 3), np.float32))
    assert list(theirs[order]) == list(ours)
    assert list(ours[np.argsort(order)]) == list(theirs)
