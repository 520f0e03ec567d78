# SPDX-License-Identifier: Apache-2.0
"""Names of the published hourglass networks."""

import pytest

from pointdet.weights.naming import ctdet, hourglass
from pointdet.weights.naming.names import Names

our_name = Names(hourglass.trunk(5) + ctdet.heads(2)).ours


def test_every_key_has_its_own_path(golden):
    keys = [key for key, _ in golden("network_hourglass104.json")["parameters"]]
    paths = [our_name(key) for key in keys]
    assert None not in paths and len(set(paths)) == len(keys) == 824


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("pre.0.conv.weight", "conv1/conv/W"),
        ("pre.1.skip.1.running_var", "res1/basicblock_s/shortcut_conv/bn/var"),
        ("kps.0.up1.1.conv2.weight", "stack1/level1/skip/layer2/basicblock2/conv/W"),
        ("kps.1.low2.low2.low3.0.bn1.bias", "stack2/level3/up/layer1/basicblock1/bn/beta"),
        ("kps.1.low2.low2.low2.low2.low2.3.bn2.weight", "stack2/bottom/layer4/basicblock2/bn/gamma"),
        ("cnvs.1.bn.running_mean", "stack2/feature/bn/mean"),
        ("inters_.0.0.weight", "stack2/merge/input/conv/W"),
        ("cnvs_.0.1.weight", "stack2/merge/feature/bn/gamma"),
        ("inters.0.conv1.weight", "stack2/merge/basicblock1/conv/W"),
        ("hm.0.0.conv.bias", "stack1/hm_conv1/conv/b"),
        ("wh.1.1.weight", "stack2/wh_final/conv/W"),
        ("kps.0.up1.1.bn2.num_batches_tracked", None),
        ("tl_heats.0.1.bias", None),
        ("tl_cnvs.0.conv1.weight", None),
    ],
)
def test_names(key, path):
    assert our_name(key) == path
