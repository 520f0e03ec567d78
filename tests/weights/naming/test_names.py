# SPDX-License-Identifier: Apache-2.0
"""Translation of parameter names in both directions, for every published network."""

import pytest

from pointdet.config.schema import ModelConfig
from pointdet.weights.naming import cornernet, mmdetection
from pointdet.weights.naming.catalogue import imagenet, official
from pointdet.weights.naming.names import Names, Template
from pointdet.weights.systems import UNUSED


def hourglass(detector, layers):
    return official(ModelConfig(arch="hourglass", num_layers=layers), detector)


def resnet(layers, arch="resnet"):
    return official(ModelConfig(arch=arch, num_layers=layers), "ctdet")


DLAV0 = official(ModelConfig(arch="dlav0", num_layers=34), "ctdet")
DLA = official(ModelConfig(arch="dla", num_layers=34), "ctdet")
NETWORKS = {
    "res_18": ("networks.json", "res18", resnet(18)),
    "res_34": ("networks_more.json", "ctdet_res_34_head_conv64", resnet(34)),
    "res_50": ("networks.json", "res50", resnet(50)),
    "res_101": ("networks_more.json", "ctdet_res_101_head_conv64", resnet(101)),
    "res_152": ("networks_more.json", "ctdet_res_152_head_conv64", resnet(152)),
    "resdcn_18": ("networks_deformable.json", "resdcn18", resnet(18, "resdcn")),
    "dlav0_34": ("networks.json", "dlav0", DLAV0),
    "dla_34": ("networks_deformable.json", "dla34", DLA),
    "ctdet hourglass": ("network_hourglass104.json", None, hourglass("ctdet", 104)),
    "CornerNet": ("networks_cornernet.json", "hourglass104", hourglass("cornernet", 104)),
    "simple 52": ("networks_cornernet.json", "simple52", hourglass("cornernet", 52).renamed(*cornernet.SIMPLE)),
    "simple 104": ("networks_cornernet.json", "simple104", hourglass("cornernet", 104).renamed(*cornernet.SIMPLE)),
    "triplets 52": ("networks_triplet.json", "triplet52", hourglass("triplet", 52)),
    "triplets 104": ("networks_triplet.json", "triplet104", hourglass("triplet", 104)),
    "torchvision 34": ("networks_more.json", "torchvision_resnet34", imagenet("resnet", False)),
    "torchvision 101": ("networks_more.json", "torchvision_resnet101", imagenet("resnet", True)),
    "ImageNet's DLA": ("published_keys.json", "dla34_imagenet", imagenet("dlav0", False)),
}  # fmt: skip


@pytest.mark.parametrize("network", NETWORKS)
def test_every_key_is_translated_and_back(golden, network):
    file, table, names = NETWORKS[network]
    entries = golden(file) if table is None else golden(file)[table]
    keys = [key for key, _ in (entries if isinstance(entries, list) else entries["parameters"])]
    paths = {key: path for key in keys if (path := names.ours(key)) is not None}
    assert len(set(paths.values())) == len(paths)
    assert {key: names.published(path) for key, path in paths.items()} == {key: key for key in paths}
    without_path = set(keys) - set(paths)
    idle = {key for key in without_path if key.startswith(("level3.project", "level4.project"))}
    assert all(UNUSED.fullmatch(key) for key in without_path - idle)


def test_names_of_cornernet_in_other_code(golden):
    """Simple CornerNet and mmdetection have the same paths; examples of mmdetection's keys."""
    theirs = [key for key, _ in golden("networks_cornernet.json")["hourglass104"]["parameters"]]
    simple = [key for key, _ in golden("networks_cornernet.json")["simple104"]["parameters"]]
    official_names = hourglass("cornernet", 104)
    paths = {official_names.ours(key) for key in theirs}
    simple_names = official_names.renamed(*cornernet.SIMPLE)
    assert {simple_names.ours(key) for key in simple} == paths
    mmdet = official_names.renamed(*mmdetection.CORNERNET)
    keys = {mmdet.published(path) for path in paths}
    assert len(keys) == len(paths) and {mmdet.ours(key) for key in keys} == paths
    assert {
        "backbone.stem.0.conv.weight",
        "backbone.stem.1.0.downsample.1.running_var",
        "backbone.hourglass_modules.1.low2.low2.low2.low2.low2.3.bn2.weight",
        "backbone.hourglass_modules.0.low2.low1.0.downsample.0.weight",
        "backbone.out_convs.1.bn.bias",
        "backbone.conv1x1s.0.conv.weight",
        "backbone.remap_convs.0.bn.running_mean",
        "backbone.inters.0.conv2.weight",
        "bbox_head.tl_pool.0.direction1_conv.conv.weight",
        "bbox_head.br_pool.1.direction2_conv.bn.weight",
        "bbox_head.tl_pool.1.aftpool_conv.conv.weight",
        "bbox_head.tl_pool.1.aftpool_conv.bn.bias",
        "bbox_head.tl_pool.0.conv1.conv.weight",
        "bbox_head.br_pool.0.conv1.bn.running_var",
        "bbox_head.br_pool.0.conv2.bn.running_var",
        "bbox_head.tl_heat.0.0.conv.weight",
        "bbox_head.br_heat.1.1.conv.bias",
        "bbox_head.tl_emb.1.1.conv.weight",
        "bbox_head.br_off.0.0.conv.bias",
    } <= keys
    assert {key.split(".")[0] for key in keys} == {"backbone", "bbox_head"}
    assert not [key for key in keys if "cnvs" in key or "skip" in key]


@pytest.mark.parametrize(
    ("model", "detector", "key", "path"),
    [
        (ModelConfig(arch="hourglass", num_layers=104), "triplet", "ct_cnvs.1.p_bn1.running_mean", "stack2/centre/pooled/bn/mean"),
        (ModelConfig(arch="hourglass", num_layers=52), "triplet", "tl_cnvs.0.look_conv2.conv.weight", "top_left/horizontal_look/conv/W"),
        (ModelConfig(arch="hourglass", num_layers=52), "triplet", "br_cnvs.0.P1_look_conv.weight", "bottom_right/vertical_joined/conv/W"),
        (ModelConfig(arch="hrnet", num_layers=18), "triplet", "pre.3.running_var", "conv2/bn/var"),
        (ModelConfig(arch="hrnet", num_layers=18), "triplet", "cnvs.bn.weight", "neck/bn/gamma"),
        (ModelConfig(arch="hrnet", num_layers=18), "triplet", "ct_regrs.1.bias", "centre/offset_final/conv/b"),
        (ModelConfig(arch="hrnet", num_layers=18), "triplet", "stage3.2.fuse_layers.2.0.1.0.weight", "stage3/2/fuse_layers/2/0/1/conv/W"),
        (ModelConfig(arch="dla", num_layers=34), "cornernet", "br_tags.0.conv.bias", "bottom_right/tag_conv1/conv/b"),
        (ModelConfig(arch="hourglass", num_layers=104, hourglass_levels=2), "ctdet", "kps.1.low2.low2.3.conv1.weight", "stack2/bottom/layer4/basicblock1/conv/W"),
    ],
)  # fmt: skip
def test_any_backbone_with_any_detector(model, detector, key, path):
    names = official(model, detector)
    assert names.ours(key) == path and names.published(path) == key


def test_templates():
    template = Template("stack{s+1}/layer{u+2}.x")
    assert template.numbers("stack3/layer12.x") == {"s": 2, "u": 10}
    assert template.filled({"s": 2, "u": 10}) == "stack3/layer12.x"
    assert template.numbers("stack3/layer12/x") is None and template.numbers("stack/layer12.x") is None


def test_keys_without_a_rule():
    names = Names((("conv{k}", "layer{k+1}/conv"), ("bn", "bn")))
    assert names.ours("conv0.weight") == "layer1/conv/W" and names.published("layer1/conv/b") == "conv0.bias"
    for key in ("conv0.scale", "conv.weight", "bn.num_batches_tracked", "weight", ""):
        assert names.ours(key) is None
    assert names.published("layer1/deconv/W") is None
