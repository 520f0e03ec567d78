# SPDX-License-Identifier: Apache-2.0
"""Multiply-adds against counts by hand and against published counts of whole networks."""

import nnabla as nn
import nnabla.functions as F
import pytest

from pointdet.config.schema import Config, DatasetConfig, InputConfig, ModelConfig
from pointdet.detectors import catalogue
from pointdet.model.network import build_graph
from pointdet.ops.arithmetic import multiply_adds
from pointdet.runtime import start


def test_counted_by_hand():
    x = nn.Variable((2, 6, 9, 8))
    # 5 x 4 cells at stride 2. Each of 10 outputs reads 3 x 3 pixels of the 3 channels of its group.
    y = F.convolution(x, nn.Variable((10, 3, 3, 3)), pad=(1, 1), stride=(2, 2), group=2)
    assert y.shape == (2, 10, 5, 4)
    convolution = 2 * 5 * 4 * 10 * 27
    assert multiply_adds([y]) == convolution
    # Each of 10 inputs in 5 x 4 cells is added to 4 x 4 pixels of 7 channels.
    z = F.deconvolution(F.relu(y), nn.Variable((10, 7, 4, 4)), pad=(1, 1), stride=(2, 2))
    deconvolution = 2 * 5 * 4 * 10 * 16 * 7
    assert multiply_adds([z]) == convolution + deconvolution
    depthwise = F.deconvolution(x, nn.Variable((6, 1, 4, 4)), pad=(1, 1), stride=(2, 2), group=6)
    assert multiply_adds([depthwise]) == 2 * 9 * 8 * 6 * 16
    offset, mask = nn.Variable((2, 18, 9, 8)), nn.Variable((2, 9, 9, 8))
    deformable = F.deformable_convolution(x, nn.Variable((5, 6, 3, 3)), offset, mask, pad=(1, 1))
    assert multiply_adds([deformable]) == 2 * 9 * 8 * 5 * 54
    assert multiply_adds([y, z, depthwise]) == convolution + deconvolution + 2 * 9 * 8 * 6 * 16  # y once


def test_count_does_not_depend_on_the_layout():
    first = F.convolution(nn.Variable((1, 3, 9, 8)), nn.Variable((10, 3, 3, 3)), pad=(1, 1))
    last = F.convolution(nn.Variable((1, 9, 8, 3)), nn.Variable((10, 3, 3, 3)), pad=(1, 1), channel_last=True)
    assert multiply_adds([first]) == multiply_adds([last]) == 9 * 8 * 10 * 27


# Published, or counted in the published networks: 10^9 multiply-adds for one image and 80 classes.
PUBLISHED = {
    "CenterNet, ResNet-18, 512": ("ctdet", ModelConfig(arch="resnet", num_layers=18), 512, 22.65),
    "CenterNet, DLAv0-34, 512": (
        "ctdet",
        ModelConfig(arch="dlav0", num_layers=34, head_channels=256, official_neck=True),
        512,
        31.1,
    ),
    "CornerNet, Hourglass-52, 511": (
        "cornernet",
        ModelConfig(arch="hourglass", num_layers=52, head_channels=256),
        511,
        223.6,
    ),
    "Keypoint triplets, Hourglass-52, 511": (
        "triplet",
        ModelConfig(arch="hourglass", num_layers=52, head_channels=256),
        511,
        297.4,
    ),
    # The neck and the pooling have 256 channels, the heads 270.
    "Keypoint triplets, HRNetV2-W18, 512": (
        "triplet",
        ModelConfig(arch="hrnet", num_layers=18, feature_channels=256, head_channels=270),
        512,
        214.7,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks(name):
    detector, model, side, published = PUBLISHED[name]
    config = Config(
        dataset=DatasetConfig(dataset="coco", format="coco"),
        model=model,
        detector={"name": detector},
        input=InputConfig(height=side, width=side),
    )
    graph = build_graph(catalogue.build(config, 80), start(), False, (1, side, side), exportable=True)
    assert multiply_adds(graph.outputs.values()) / 1e9 == pytest.approx(published, rel=0.005)
