# SPDX-License-Identifier: Apache-2.0
"""Names of the official upsampling with deformable convolutions. Complete networks: tests/backbones."""

import pytest

from pointdet.weights.naming import deformable
from pointdet.weights.naming.names import Names


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("dla_up.ida_1.proj_2.conv.weight", "dla_up/ida_1/proj_2/conv/W"),
        ("dla_up.ida_0.node_1.conv.bias", "dla_up/ida_0/node_1/conv/b"),
        ("dla_up.ida_2.node_3.conv.conv_offset_mask.weight", "dla_up/ida_2/node_3/offset/conv/W"),
        ("dla_up.ida_2.proj_1.actf.0.running_var", "dla_up/ida_2/proj_1/bn/var"),
        ("dla_up.ida_2.proj_1.actf.0.num_batches_tracked", None),
        ("dla_up.ida_2.up_3.weight", "dla_up/ida_2/up_3/deconv/W"),
        ("ida_up.proj_2.conv.conv_offset_mask.bias", "ida_up/proj_2/offset/conv/b"),
        ("ida_up.node_1.actf.0.weight", "ida_up/node_1/bn/gamma"),
        ("ida_up.up_2.weight", "ida_up/up_2/deconv/W"),
    ],
)
def test_dla(key, path):
    assert Names(deformable.DLA).ours(key) == path


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("deconv_layers.0.weight", "upsample1/deform/conv/W"),
        ("deconv_layers.6.conv_offset_mask.bias", "upsample2/deform/offset/conv/b"),
        ("deconv_layers.7.running_mean", "upsample2/deform/bn/mean"),
        ("deconv_layers.7.num_batches_tracked", None),
        ("deconv_layers.15.weight", "upsample3/deconv/W"),
        ("deconv_layers.16.bias", "upsample3/bn/beta"),
    ],
)
def test_resnet(key, path):
    assert Names(deformable.RESNET).ours(key) == path
