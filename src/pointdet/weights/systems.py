# SPDX-License-Identifier: Apache-2.0
"""Recognise by the keys of a parameter file which system wrote it, and the settings that its network needs.

The backbone and the heads are recognised independently, so that every combination with names in
`naming.catalogue.official` is recognised.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pointdet.arrays import Arrays
from pointdet.backbones.resnet import STAGES
from pointdet.config.schema import ModelConfig
from pointdet.weights.naming import cornernet, ctdet, mmdetection, resnet
from pointdet.weights.naming.catalogue import official
from pointdet.weights.naming.names import Names, prefixed

Shapes = Mapping[str, tuple[int, ...]]
Settings = dict[str, Any]

# Keys of parameters that the published network does not use for its output either: batch counters, ImageNet
# classifiers, projections of DLA levels 3 and 4, and mmdetection's merge layers after the last hourglass.
UNUSED = re.compile(
    r".*num_batches_tracked|(base\.|backbone\.)?fc\..*|fc/.*|base\.level[34]\.project\..*"
    r"|backbone\.inters\..*"
)

# ImageNet's mean and standard deviation in RGB order. For VOC official CenterNet, its NNabla port and simple
# CornerNet use them for BGR images, also in this order.
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
RGB = {**IMAGENET, "colour_order": "rgb"}

TITLES = {
    "ctdet": "official CenterNet",
    "cornernet": "official CornerNet",
    "triplet": "CenterNet with keypoint triplets",
}
CORNERS_INPUT: Settings = {"height": 511, "width": 511}
CORNERS_TEST: Settings = {"keep_resolution": True, "vis_thresh": 0.5}
CTDET_DATA: Mapping[str, Settings] = {"voc": {"input": {"height": 384, "width": 384, **IMAGENET}}}

COCO_DATA = {
    "dataset": "coco",
    "format": "coco",
    "train": {"annotations": ["annotations/instances_train2017.json"], "images": "train2017"},
    "val": {"annotations": ["annotations/instances_val2017.json"], "images": "val2017"},
    "test": {"annotations": ["annotations/instances_val2017.json"], "images": "val2017"},
}
VOC_DATA = {
    "dataset": "pascal",
    "format": "voc",
    "train": {
        "annotations": [f"VOCdevkit/VOC{year}/ImageSets/Main/trainval.txt" for year in (2012, 2007)],
    },
    "val": {"annotations": ["VOCdevkit/VOC2007/ImageSets/Main/test.txt"]},
    "test": {"annotations": ["VOCdevkit/VOC2007/ImageSets/Main/test.txt"]},
    "metric": "voc07",
}


@dataclass(frozen=True)
class System:
    """The system that wrote a parameter file."""

    title: str
    names: Names | None  # None: the file has our parameter paths
    classes: int
    settings: Settings  # configuration: section -> values
    data_settings: Mapping[str, Settings] = field(
        default_factory=dict
    )  # more of them, for "coco" and "voc" only
    published: bool = False  # the published results need the detector's option `published`
    complete: Callable[[Arrays], Arrays] = dict  # adds parameters that our network has and theirs does not


def recognise(shapes: Shapes) -> System | None:
    """The system of a file with these keys and shapes, or None if it is unknown."""
    for known in (_mmdetection_cornernet, _mmdetection_ctdet, _official, _nnabla):
        if system := known(shapes):
            return system
    return None


def _official(shapes: Shapes) -> System | None:
    """Official CenterNet, official and simple CornerNet, CenterNet with triplets and its HRNet fork."""
    model = _backbone(shapes)
    if model is None:
        return None
    index = ".0.0.conv" if model["arch"] == "hourglass" else ".0.conv"
    detectors = {
        f"ct_heats{index}": "triplet",
        f"tl_heats{index}": "cornernet",
        "hmap_tl.0.0.conv": "cornernet",
        "hm.0.0.conv": "ctdet",
        "hm.0": "ctdet",
    }
    layer = next((layer for layer in detectors if f"{layer}.weight" in shapes), None)
    if layer is None:
        return None
    detector, simple = detectors[layer], layer.startswith("hmap")
    names = official(ModelConfig(**model), detector)
    names = names.renamed(*cornernet.SIMPLE) if simple else names
    classes, model["head_channels"] = _heads(shapes, names)
    if neck := shapes.get("necks.0.conv.weight" if model["arch"] == "hourglass" else "cnvs.conv.weight"):
        model["feature_channels"] = neck[0]
    settings: Settings = {"model": model, "detector": {"name": detector}}
    of_data: Mapping[str, Settings] = {"voc": {"input": IMAGENET}}
    complete: Callable[[Arrays], Arrays] = dict
    if detector == "ctdet":
        if _last_sizes(shapes, names) == 2 * classes > 2:
            settings["detector"]["size_per_class"] = True
        if not any(re.match(r"reg\.", key) for key in shapes):
            complete = ctdet.with_centred_offsets
        of_data = {**CTDET_DATA, "coco": {"test": {"keep_resolution": True}}}
    else:
        # Only hourglasses can use 511 pixels; other backbones need a multiple of their stride.
        settings["input"] = CORNERS_INPUT if model["arch"] == "hourglass" else {"height": 512, "width": 512}
        settings["test"] = CORNERS_TEST | {"flip": not simple}
    if simple:
        settings["detector"]["merge_exponent"] = 10
    title = "simple CornerNet" if simple else TITLES[detector]
    title += ", without an offset head" * (complete is not dict)
    return System(title, names, classes, settings, of_data, published=True, complete=complete)


def _mmdetection_cornernet(shapes: Shapes) -> System | None:
    if "bbox_head.tl_heat.0.0.conv.weight" not in shapes:
        return None
    model = {"arch": "hourglass", "num_layers": _hourglass(shapes, "backbone.hourglass_modules")}
    names = official(ModelConfig(**model), "cornernet").renamed(*mmdetection.CORNERNET)
    classes, model["head_channels"] = _heads(shapes, names)
    settings = {
        "model": model,
        "detector": {"name": "cornernet"},
        "input": CORNERS_INPUT | RGB,
        "test": CORNERS_TEST,
    }
    return System("mmdetection's CornerNet", names, classes, settings)


def _mmdetection_ctdet(shapes: Shapes) -> System | None:
    if not {"bbox_head.heatmap_head.0.weight", "neck.deconv_layers.0.conv.weight"} <= set(shapes):
        return None
    third = "backbone.layer1.0.conv3.weight"
    model = {"arch": "resdcn", "num_layers": _resnet(shapes, r"backbone\.layer{}\.(\d+)\.", third)}
    trunk = prefixed("backbone.", resnet.trunk(bottleneck=third in shapes))
    heads = Names(ctdet.heads(0)).renamed(*mmdetection.CTDET_HEADS).rules
    names = Names(trunk + mmdetection.UPSAMPLING + heads)
    classes, model["head_channels"] = _heads(shapes, names)
    settings = {
        "model": model,
        "detector": {"name": "ctdet"},
        "input": {"height": 512, "width": 512, **RGB},
        "test": {"keep_resolution": True},
    }
    return System("mmdetection's CenterNet", names, classes, settings, complete=mmdetection.complete)


def _nnabla(shapes: Shapes) -> System | None:
    """The CenterNet example of NNabla, in NCHW or NHWC."""
    if "hm_final/conv/b" not in shapes:
        return None
    if "up16/up/conv/W" in shapes:
        kernel = shapes.get("up4/residual_level3/x_root/root/conv/W", ())
        model: Settings = {"arch": "dlav0", "num_layers": 34, "official_neck": 3 in kernel[1:3]}
    else:
        depth = _resnet(shapes, r"res{}/layer(\d+)/", "res1/layer1/bottleneck3/conv/W")
        model = {"arch": "resnet", "num_layers": depth}
    classes, model["head_channels"] = _heads(shapes, None)
    settings: Settings = {"model": model, "detector": {"name": "ctdet"}}
    return System("the NNabla example's CenterNet", None, classes, settings, CTDET_DATA)


def _backbone(shapes: Shapes) -> Settings | None:
    """The section `model` by the backbone's keys, for networks with official names; None if unknown."""
    if "kps.0.low1.0.conv1.weight" in shapes:
        levels = min(max(1, *(key.count("low2.") for key in shapes)), 5)
        return {"arch": "hourglass", "num_layers": _hourglass(shapes, "kps"), "hourglass_levels": levels}
    if finest := shapes.get("stage2.0.branches.0.0.conv1.weight"):
        return {"arch": "hrnet", "num_layers": finest[0]}
    if "ida_up.proj_1.conv.weight" in shapes:
        return {"arch": "dla", "num_layers": 34}
    if "dla_up.ida_0.proj_1.0.weight" in shapes:
        kernel = shapes.get("dla_up.ida_1.node_2.0.weight", ())
        return {"arch": "dlav0", "num_layers": 34, "official_neck": kernel[2:] != (1, 1)}
    if "deconv_layers.0.weight" in shapes:
        deformable = "deconv_layers.0.conv_offset_mask.weight" in shapes
        depth = _resnet(shapes, r"layer{}\.(\d+)\.", "layer1.0.conv3.weight")
        return {"arch": "resdcn" if deformable else "resnet", "num_layers": depth}
    return None


def _hourglass(shapes: Shapes, module: str) -> int:
    """num_layers by the number of stacks."""
    return 104 if any(key.startswith(f"{module}.1.") for key in shapes) else 52


def _resnet(shapes: Shapes, unit: str, third: str) -> int:
    """num_layers by the number of units in each stage.

    unit: pattern of the keys of a stage's units. third: key of a third convolution, which only bottlenecks
    have. Returns 18 if no ResNet has these units; the report then lists the keys that do not fit.
    """
    counts = tuple(
        len({found[1] for key in shapes if (found := re.match(unit.format(stage), key))})
        for stage in range(1, 5)
    )
    return next((depth for depth, found in STAGES.items() if found == (counts, third in shapes)), 18)


def _last_sizes(shapes: Shapes, names: Names) -> int:
    """Number of maps of the size head; 0 if the file has no bias of its last layer."""
    biases = (s for key, s in shapes.items() if (names.ours(key) or "").endswith("wh_final/conv/b") and s)
    return next((shape[0] for shape in biases), 0)


def _heads(shapes: Shapes, names: Names | None) -> tuple[int, int]:
    """Number of classes and of head channels; 1 if the file has no bias of the layer."""
    found = {"final": 1, "conv1": 1}
    for key, shape in shapes.items():
        layer = re.search(r"(?:hm|heatmap)_(final|conv1)/conv/b$", (names.ours(key) if names else key) or "")
        if layer and shape:
            found[layer[1]] = shape[0]
    return found["final"], found["conv1"]
