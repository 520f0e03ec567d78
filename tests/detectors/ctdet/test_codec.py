# SPDX-License-Identifier: Apache-2.0
"""The CenterNet codec against golden targets and detections; decode is the inverse of encode."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from pointdet.config.schema import CtDetConfig
from pointdet.detectors.ctdet.codec import CtDetCodec
from pointdet.geometry import View
from pointdet.structures import Annotation

GOLDEN = np.load(Path(__file__).parents[2] / "golden/ctdet_codec.npz")
CASES = ["val", "val_keep_res", "train_crop", "train_crop_flip", "train_shift", "train_shift_flip"]


def codec_of(num_classes=4, height=128, width=128, **settings):
    return CtDetCodec.of(CtDetConfig(**settings), num_classes, height, width)


def encoded(codec, annotation):
    """Targets, from arrays of NaN, and the number of objects beyond the limit."""
    targets = {name: np.full(shape, np.nan, np.float32) for name, shape in codec.target_shapes().items()}
    overflow = codec.encode(annotation, targets)
    return targets, overflow


def golden_annotation(case):
    """The annotation of the golden image in the view of the case (boxes_input), and the input size."""
    height, width = (4 * side for side in GOLDEN[f"{case}/heatmap"].shape[1:])
    centre_x, centre_y = GOLDEN[f"{case}/centre"].tolist()
    mirrored = bool(GOLDEN[f"{case}/mirrored"])
    if mirrored:  # the golden centre is in the mirrored image
        centre_x = GOLDEN["image/size"][1] - 1 - centre_x
    view = View.centred((centre_x, centre_y), width / float(GOLDEN[f"{case}/scale"]), height, width, mirrored)
    return Annotation.of(view.boxes_to_input(GOLDEN["image/boxes"]), GOLDEN["image/labels"]), height, width


@pytest.mark.parametrize("case", CASES)
def test_targets_are_golden(case):
    annotation, height, width = golden_annotation(case)
    targets, overflow = encoded(codec_of(height=height, width=width), annotation)

    rows = GOLDEN[f"{case}/mask"] == 1  # invisible objects have a golden row, but none here
    count = int(rows.sum())
    assert overflow == 0
    np.testing.assert_array_equal(targets["mask"], np.arange(128) < count)
    np.testing.assert_allclose(targets["heatmap"], GOLDEN[f"{case}/heatmap"], atol=1e-6)
    np.testing.assert_array_equal(targets["index"][:count], GOLDEN[f"{case}/index"][rows])
    for name in ("size", "offset"):
        np.testing.assert_allclose(targets[name][:count], GOLDEN[f"{case}/{name}"][rows], atol=5e-6)
    for name in ("size", "offset", "index"):
        assert not targets[name][count:].any()
    assert targets["positives"] == (GOLDEN[f"{case}/heatmap"] == 1).sum()


def test_only_the_first_objects_are_encoded():
    annotation, height, width = golden_annotation("val_max3")
    targets, overflow = encoded(codec_of(height=height, width=width, max_objects=3), annotation)
    assert overflow == 4  # of 8 objects; one is invisible
    np.testing.assert_array_equal(targets["index"], GOLDEN["val_max3/index"])
    np.testing.assert_allclose(targets["heatmap"], GOLDEN["val_max3/heatmap"], atol=1e-6)


def test_invisible_objects_have_no_row():
    boxes = [[-50, 10, -4, 30], [130, 0, 200, 40], [20, 20, 20, 60], [60, 60, 40, 80], [8, 8, 40, 40]]
    targets, overflow = encoded(codec_of(max_objects=1), Annotation.of(boxes, [0, 1, 2, 3, 1]))
    assert overflow == 0
    assert targets["index"].tolist() == [6 * 32 + 6]
    assert targets["positives"] == 1
    assert not targets["heatmap"][[0, 2, 3]].any()


def test_sides_that_are_no_multiple_of_four():
    """511 pixels are 128 cells, as a convolution of stride 2 rounds up."""
    codec = codec_of(height=511, width=383)
    targets, overflow = encoded(codec, Annotation.of([[340, 470, 378, 506]], [1]))
    assert overflow == 0 and targets["heatmap"].shape == (4, 128, 96)
    assert targets["index"][0] == 122 * 96 + 89
    np.testing.assert_allclose(targets["size"][0], [38 / 4, 36 / 4])


def test_no_objects():
    targets, overflow = encoded(codec_of(), Annotation.of([], []))
    assert overflow == 0
    assert not any(target.any() for target in targets.values())


def test_positives_count_a_shared_cell_once():
    box = [40, 40, 72, 72]
    targets, _ = encoded(codec_of(), Annotation.of([box, box, box, [0, 0, 30, 30]], [2, 2, 3, 2]))
    assert targets["mask"].sum() == 4
    assert targets["positives"] == (targets["heatmap"] == 1).sum() == 3


def test_radius_has_the_formula_of_the_setting():
    annotation = Annotation.of([[8, 8, 120, 120]], [0])
    wide, _ = encoded(codec_of(radius="published", min_overlap=0.7), annotation)
    narrow, _ = encoded(codec_of(radius="iou", min_overlap=0.7), annotation)
    assert (wide["heatmap"] > 0).sum() == 15**2  # a square of 28 cells: radius 7.6 -> 7
    assert (narrow["heatmap"] > 0).sum() == 5**2  # 2.3 -> 2


@pytest.mark.parametrize("count", [100, 40])
def test_detections_are_golden(count):
    maps = {name: GOLDEN[f"decode/{name}"] for name in ("heatmap", "size", "offset")}
    expected = GOLDEN[f"decode/best{count}"]
    found = codec_of(num_classes=5).decode(maps, count)
    np.testing.assert_allclose(found.boxes, 4 * expected[:, :4], rtol=1e-5, atol=2e-5)
    np.testing.assert_array_equal(found.scores, expected[:, 4])
    np.testing.assert_array_equal(found.labels, expected[:, 5])
    assert (found.boxes.dtype, found.labels.dtype, found.scores.dtype) == (np.float32, np.int64, np.float32)


@pytest.mark.parametrize("radius", ["published", "iou"])
@pytest.mark.parametrize("seed", range(20))
def test_decode_is_the_inverse_of_encode(seed, radius):
    random = np.random.default_rng(seed)
    height, width = random.integers(2, 9, 2) * 32
    first = random.uniform(0, [width - 8, height - 8], (40, 2))
    second = np.minimum(first + random.uniform(1, 200, (40, 2)), [width - 4, height - 4])
    boxes = np.concatenate([first, second], axis=1).astype(np.float32)
    # A cell has one size, so only one of two objects in a cell can be decoded.
    cells = (boxes[:, :2] + boxes[:, 2:]) // 8
    boxes = boxes[np.unique(cells, axis=0, return_index=True)[1]]
    labels = random.integers(0, 6, len(boxes))
    codec = codec_of(num_classes=6, height=int(height), width=int(width), radius=radius)

    targets, overflow = encoded(codec, Annotation.of(boxes, labels))
    found = codec.decode(codec.maps_from_targets(targets), len(boxes))

    assert overflow == 0
    assert targets["positives"] == len(boxes)
    assert (found.scores == 1).all()
    expected = sorted(zip(labels.tolist(), boxes.tolist(), strict=True))
    ours = sorted(zip(found.labels.tolist(), found.boxes.tolist(), strict=True))
    assert [label for label, _ in ours] == [label for label, _ in expected]
    np.testing.assert_allclose([box for _, box in ours], [box for _, box in expected], atol=2e-4)


def test_maps_of_another_size_than_the_input_are_decoded():
    targets, _ = encoded(codec_of(height=64, width=256), Annotation.of([[10, 20, 200, 50]], [3]))
    codec = codec_of(height=512, width=512)
    found = codec.decode(codec.maps_from_targets(targets), 1)
    np.testing.assert_allclose(found.boxes, [[10, 20, 200, 50]], atol=1e-4)


def test_mirrored_maps_are_averaged():
    random = np.random.default_rng(5)
    channels = {"heatmap": 4, "size": 2, "offset": 2}
    maps = {name: random.random((n, 3, 5), np.float32) for name, n in channels.items()}
    mirrored = {name: random.random((n, 3, 5), np.float32) for name, n in channels.items()}
    merged = codec_of().merge_mirrored(maps, mirrored)
    assert set(merged) == set(maps)
    for x in range(5):
        for name in ("heatmap", "size"):
            average = (maps[name][:, :, x] + mirrored[name][:, :, 4 - x]) / 2
            np.testing.assert_allclose(merged[name][:, :, x], average, rtol=1e-6)
    np.testing.assert_array_equal(merged["offset"], maps["offset"])


def test_codec_can_be_pickled():
    codec = codec_of()
    assert pickle.loads(pickle.dumps(codec)) == codec
