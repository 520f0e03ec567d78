# SPDX-License-Identifier: Apache-2.0
"""mmdetection's files: parameters, RGB input, and detections compared with its own computation."""

from pathlib import Path

import networks
import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest

from pointdet.config.schema import ModelConfig
from pointdet.conversion.import_published import import_arrays
from pointdet.inference.predictor import Predictor
from pointdet.model.restore import restore
from pointdet.ops.mode import Mode
from pointdet.runtime import start
from pointdet.weights.naming import cornernet, mmdetection
from pointdet.weights.naming.catalogue import official

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of RGB, from its configurations


def mmdetection_key(key):
    """A key of the official `resdcn_18` -> mmdetection's key; None for the bias, which it does not have."""
    head, *rest = key.split(".")
    if head == "deconv_layers":
        step, layer = divmod(int(rest[0]), 6)
        place, part = {0: (0, "conv"), 1: (0, "bn"), 3: (1, "conv"), 4: (1, "bn")}[layer]
        leaf = ".".join(rest[1:]).replace("conv_offset_mask", "conv_offset")
        no_bias = layer == 0 and leaf == "bias"
        return None if no_bias else f"neck.deconv_layers.{2 * step + place}.{part}.{leaf}"
    heads = {"hm": "heatmap_head", "wh": "wh_head", "reg": "offset_head"}
    return f"bbox_head.{heads[head]}.{'.'.join(rest)}" if head in heads else f"backbone.{key}"


@pytest.fixture
def theirs(golden):
    """The parameters of `resdcn_18` from the formula, by mmdetection's keys."""
    arrays = networks.published(golden("networks_deformable.json")["resdcn18"], "B")
    return {name: array for key, array in arrays.items() if (name := mmdetection_key(key)) is not None}


def test_parameters_are_the_official_ones(golden, theirs):
    ours = import_arrays(networks.published(golden("networks_deformable.json")["resdcn18"], "B"), Path("x"))
    published_weights = import_arrays(theirs | {"backbone.bn1.num_batches_tracked": np.array(5.0)}, Path("x"))
    assert (
        published_weights.system.title == "mmdetection's CenterNet" and not published_weights.report.misfits
    )
    assert published_weights.report.unused == ("backbone.bn1.num_batches_tracked",)
    assert set(published_weights.arrays) == set(ours.arrays)
    for name, array in ours.arrays.items():
        wanted = np.zeros_like(array) if name.endswith("deform/conv/b") else array
        np.testing.assert_array_equal(published_weights.arrays[name], wanted, err_msg=name)


def test_plain_convolutions(theirs):
    """ResNet-18 with use_dcn false: our deformable convolutions compute the same as its plain ones."""
    plain = {key: array for key, array in theirs.items() if "conv_offset" not in key}
    published_weights = import_arrays(plain, Path("x"))
    assert not published_weights.report.misfits and published_weights.config.model.arch == "resdcn"
    x = np.random.default_rng(0).standard_normal((1, 512, 5, 7)).astype(np.float32)
    w, b, offset_w, offset_b = (
        nn.Variable.from_numpy_array(published_weights.arrays[f"upsample1/deform/{name}"])
        for name in ("conv/W", "conv/b", "offset/conv/W", "offset/conv/b")
    )
    x = nn.Variable.from_numpy_array(x)
    where = F.convolution(x, offset_w, offset_b, pad=(1, 1))
    mask = F.sigmoid(where[:, 18:])
    found = F.deformable_convolution(x, w, where[:, :18], mask, b, pad=(1, 1))
    expected = F.convolution(x, w, pad=(1, 1))
    nn.forward_all([found, expected])
    np.testing.assert_allclose(found.d, expected.d, rtol=0, atol=1e-5 * np.abs(expected.d).max())


def detections(maps, border, count):
    """x1 y1 x2 y2 score label by descending score, as mmdetection decodes the maps of one image."""
    probability = 1 / (1 + np.exp(-maps["heatmap"][0].astype(np.float64)))
    around = np.pad(probability, ((0, 0), (1, 1), (1, 1)))
    height, width = probability.shape[1:]
    highest = np.max([around[:, y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0)
    best = np.argsort(-np.where(probability == highest, probability, 0).ravel(), kind="stable")[:count]
    labels, ys, xs = np.unravel_index(best, probability.shape)
    x, y = (axis + maps["offset"][0, i, ys, xs] for i, axis in enumerate((xs, ys)))
    w, h = maps["size"][0, :, ys, xs].T
    boxes = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1) * 4
    boxes -= [border[1], border[0], border[1], border[0]]
    return np.column_stack([boxes, probability[labels, ys, xs], labels])


def test_detections_of_an_image(theirs, tmp_path):
    """The image is padded with zeros on all sides, converted to RGB and normalised."""
    image = np.random.default_rng(1).integers(0, 256, (50, 71, 3), np.uint8)
    import_arrays(theirs, Path("x")).save(tmp_path / "checkpoint")
    model = restore(tmp_path / "checkpoint", start())
    found = Predictor.of(model)(image)

    height, width = (50 | 31) + 1, (71 | 31) + 1
    top, left = height // 2 - 50 // 2, width // 2 - 71 // 2
    canvas = np.zeros((height, width, 3), np.float32)
    canvas[top : top + 50, left : left + 71] = image
    x = ((canvas[..., ::-1] - MEAN) / STD).transpose(2, 0, 1)[None].astype(np.float32)
    maps = networks.run_stacks(model.detector, x, Mode(False, kernels="blas"))[-1]
    expected = detections(maps, (top, left), 100)[:20]
    np.testing.assert_allclose(found.scores[:20], expected[:, 4], rtol=1e-4)
    np.testing.assert_array_equal(found.labels[:20], expected[:, 5])
    np.testing.assert_allclose(found.boxes[:20], expected[:, :4], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("stacks", [1, 2])
def test_cornernet(golden, stacks):
    """With one stack, mmdetection has merge layers that are not used."""
    table = golden("networks_cornernet.json")["hourglass104" if stacks == 2 else "simple52"]
    names = official(ModelConfig(arch="hourglass", num_layers=52 * stacks), "cornernet")
    source = names if stacks == 2 else names.renamed(*cornernet.SIMPLE)
    spelling = names.renamed(*mmdetection.CORNERNET)
    arrays = {
        spelling.published(source.ours(key)): np.broadcast_to(np.float32(0), shape)
        for key, shape in table["parameters"]
    }
    if stacks == 1:
        arrays["backbone.inters.0.conv1.weight"] = np.broadcast_to(np.float32(0), (256, 256, 3, 3))
    published_weights = import_arrays(arrays, Path("x.pth"))
    assert (
        published_weights.system.title == "mmdetection's CornerNet" and not published_weights.report.misfits
    )
    assert len(published_weights.report.unused) == 2 - stacks
    settings = published_weights.config.input
    assert (settings.height, settings.width, settings.colour_order) == (511, 511, "rgb")
    np.testing.assert_allclose(np.array(settings.mean) * 255, MEAN)
    np.testing.assert_allclose(np.array(settings.std) * 255, STD)
    assert (
        not published_weights.config.detector.published
        and published_weights.config.model.num_layers == 52 * stacks
    )
