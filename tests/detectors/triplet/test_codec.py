# SPDX-License-Identifier: Apache-2.0
"""The codec of keypoint triplets against golden targets and centres; decode is the inverse of encode."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from corners import encoded, golden_view

from pointdet.config.schema import TripletConfig
from pointdet.detectors.cornernet.codec import CORNERS, CornerNetCodec
from pointdet.detectors.triplet.codec import KEYPOINTS, TripletCodec
from pointdet.geometry import View
from pointdet.structures import Annotation, Detections

GOLDEN = np.load(Path(__file__).parents[2] / "golden/triplet_codec.npz")
CASES = sorted({key.partition("/")[0] for key in GOLDEN if key.endswith("_index")})


def codec_of(num_classes=4, height=127, width=127, **settings):
    return TripletCodec(CornerNetCodec.of(TripletConfig(**settings), num_classes, height, width))


@pytest.mark.parametrize("case", CASES)
def test_targets_are_golden(case):
    view, _, overlap = golden_view(GOLDEN[f"{case}/input_overlap_side_cx_cy_mirrored"])
    boxes = view.boxes_to_input(GOLDEN["boxes"])
    targets, overflow = encoded(codec_of(min_overlap=overlap), Annotation.of(boxes, GOLDEN["labels"]))

    count = len(GOLDEN[f"{case}/centre_index"])
    assert overflow == 0
    np.testing.assert_array_equal(targets["mask"], np.arange(128) < count)
    for kind in KEYPOINTS:
        heatmap = GOLDEN[f"{case}/{kind}_heatmap"]
        np.testing.assert_allclose(targets[f"{kind}_heatmap"], heatmap, atol=1e-6)
        assert targets[f"{kind}_positives"] == (heatmap == 1).sum()
        index, offset = targets[f"{kind}_index"], targets[f"{kind}_offset"]
        np.testing.assert_array_equal(index[:count], GOLDEN[f"{case}/{kind}_index"])
        np.testing.assert_allclose(offset[:count], GOLDEN[f"{case}/{kind}_offset"], atol=5e-6)
        assert not index[count:].any() and not offset[count:].any()


def test_centres_and_candidates_are_golden():
    kinds = {"heatmap": "logits", "offset": "offset", "tag": "tag"}
    maps = {
        f"{keypoint}_{ours}": GOLDEN[f"decode/{keypoint}_{kind}"]
        for keypoint in KEYPOINTS
        for ours, kind in kinds.items()
        if (keypoint, ours) != ("centre", "tag")
    }
    maps = {n: (1 / (1 + np.exp(-a))).astype(np.float32) if "heatmap" in n else a for n, a in maps.items()}
    found = codec_of(5, 128, 128).decode(maps, 100)
    pairs, centres = GOLDEN["decode/pairs"], GOLDEN["decode/centres"]  # in cells
    assert len(found) == len(pairs) > 80
    np.testing.assert_allclose(found.boxes, 4 * pairs[:, :4], rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(found.scores, pairs[:, 4], rtol=1e-5)
    np.testing.assert_array_equal(found.labels, pairs[:, 7])
    assert len(found.centres) == len(centres) == 70
    np.testing.assert_allclose(found.centres.boxes, 4 * np.tile(centres[:, :2], 2), rtol=1e-5)
    np.testing.assert_array_equal(found.centres.labels, centres[:, 2])
    np.testing.assert_allclose(found.centres.scores, centres[:, 3], rtol=1e-5)


@pytest.mark.parametrize("seed", range(10))
def test_decode_and_select_are_the_inverse_of_encode(seed):
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 4, 2) * 128 - random.integers(0, 2)
    # One object in each square of 64 x 64: no two share a cell.
    corners = np.stack(np.meshgrid(np.arange(0, width - 8, 64), np.arange(0, height - 8, 64)), -1).reshape(
        -1, 2
    )
    first = corners + random.uniform(1, 20, corners.shape)
    second = np.minimum(first + random.uniform(12, 40, corners.shape), [width - 2, height - 2])
    boxes = np.concatenate([first, second], axis=1).astype(np.float32)
    labels = random.integers(0, 6, len(boxes))
    codec = codec_of(6, int(height), int(width), suppression="hard")

    targets, overflow = encoded(codec, Annotation.of(boxes, labels))
    found = codec.decode(codec.maps_from_targets(targets), len(boxes))
    kept = codec.select([(1.0, found)], (height, width), False, 100)

    assert overflow == 0
    best = kept[kept.scores > 0.999]
    order, ours = np.lexsort(boxes.T[:2]), np.lexsort(best.boxes.T[:2])
    np.testing.assert_array_equal(best.labels[ours], labels[order])
    np.testing.assert_allclose(best.boxes[ours], boxes[order], atol=2e-4)


def candidates(boxes, scores, centres, labels=None, centre_labels=None):
    """Boxes of corner pairs and centres (x, y, score), of class 0 by default."""
    points = np.float32([centre[:2] for centre in centres]).reshape(-1, 2)
    return Detections(
        np.float32(boxes).reshape(-1, 4),
        np.zeros(len(boxes), np.int64) if labels is None else np.array(labels),
        np.float32(scores),
        np.float32([(score, score) for score in scores]).reshape(-1, 2),
        Detections(
            np.tile(points, 2),
            np.zeros(len(points), np.int64) if centre_labels is None else np.array(centre_labels),
            np.float32([centre[2] for centre in centres]),
        ),
    )


def selected(parts, scales=(1.0,), size=(1000, 1000), **settings):
    return codec_of(suppression="hard", **settings).select(
        list(zip(scales, parts, strict=True)), size, False, 100
    )


@pytest.mark.parametrize(
    ("box", "centre", "confirmed"),
    [
        # 90 x 90 pixels: the middle third, without its border
        ([0, 0, 90, 90], (45, 45), True),
        ([0, 0, 90, 90], (30.5, 59.5), True),
        ([0, 0, 90, 90], (30, 45), False),
        ([0, 0, 90, 90], (45, 60), False),
        # 150 x 150 is the largest of the small boxes: the middle third, 50 to 100
        ([0, 0, 150, 150], (51, 99), True),
        # larger: the middle fifth, 60.4 to 90.6 of 151
        ([0, 0, 151, 150], (61, 89), True),
        ([0, 0, 151, 150], (51, 89), False),
        ([0, 0, 151, 150], (90.7, 75), False),
    ],
)
def test_the_central_region(box, centre, confirmed):
    found = selected([candidates([box], [0.6], [(*centre, 0.9)])])
    assert len(found) == confirmed
    if confirmed:
        assert found.scores[0] == pytest.approx((2 * 0.6 + 0.9) / 3)


def test_a_centre_confirms_only_its_class():
    found = candidates([[0, 0, 90, 90]] * 2, [0.6, 0.5], [(45, 45, 0.9)], labels=[0, 1], centre_labels=[1])
    assert selected([found]).labels.tolist() == [1]


def test_the_best_centre_is_used_and_if_published_the_first_one():
    centres = [(40, 40, 0.5), (45, 45, 0.3), (50, 50, 0.9)]
    part = candidates([[0, 0, 90, 90]], [0.6], centres)
    assert selected([part]).scores[0] == pytest.approx((2 * 0.6 + 0.9) / 3)
    assert selected([part], published=True).scores[0] == pytest.approx((2 * 0.6 + 0.5) / 3)


def test_centres_of_all_scales_are_used_and_if_published_those_of_scale_1():
    with_centre = candidates([[0, 0, 90, 90]], [0.6], [(45, 45, 0.9)])
    without = candidates([[200, 200, 290, 290]], [0.5], [(250, 250, 0.3)])
    scales = (0.5, 1.0)
    assert len(selected([with_centre, without], scales)) == 2
    assert selected([with_centre, without], scales, published=True).boxes[0, 0] == 200


@pytest.mark.parametrize(
    ("box", "scale", "kept"),
    [
        ([-4.9, 0, 90, 90], 1.0, True),
        ([-5, 0, 90, 90], 1.0, False),
        ([0, -5, 90, 90], 1.0, False),
        ([10, 10, 104.9, 100], 1.0, True),
        ([10, 10, 105, 100], 1.0, False),
        ([10, 10, 100, 105], 1.0, False),
        ([-9.9, 0, 90, 90], 0.5, True),
        ([-2.6, 0, 90, 90], 2.0, False),
    ],
)
def test_boxes_far_outside_the_image_are_dropped_and_others_clipped(box, scale, kept):
    part = candidates([box], [0.6], [(48, 48, 0.9)])
    found = selected([part], (scale,), (100, 100))
    assert len(found) == kept
    if kept:
        np.testing.assert_allclose(found.boxes[0], np.clip(box, 0, 100))


def test_no_detections():
    for part in (
        candidates([], [], []),
        candidates([], [], [(45, 45, 0.9)]),
        candidates([[0, 0, 9, 9]], [0.5], []),
    ):
        assert len(selected([part])) == 0


@pytest.mark.parametrize("side", [127, 128])
def test_centres_of_the_mirror_image_are_mirrored(side):
    boxes = np.float32([[10, 20, 60, 50], [30.5, 4.25, 99.75, 80]])
    mirrored_boxes = side - 1 - boxes[:, [2, 1, 0, 3]]
    mirrored_boxes[:, [1, 3]] = boxes[:, [1, 3]]
    codec = codec_of(height=side, width=side)
    maps = [
        codec.maps_from_targets(encoded(codec, Annotation.of(b, [1, 3]))[0]) for b in (boxes, mirrored_boxes)
    ]
    found, own = codec.decode(maps[0], 10, maps[1]), codec.decode(maps[0], 10)
    mirrored = found.centres[np.arange(len(own.centres), len(found.centres))]
    expected = (boxes[:, :2] + boxes[:, 2:]) / 2
    best = mirrored[mirrored.scores == 1]
    np.testing.assert_allclose(best.boxes, np.tile(expected, 2), atol=1e-4)


def test_centres_are_kept_by_all_operations_on_detections():
    part = candidates([[0, 0, 90, 90], [5, 5, 60, 60]], [0.6, 0.4], [(45, 45, 0.9)])
    view = View(100, 100, 2.0, 2.0, 10.0, -4.0)
    moved = part.to_image(view)
    np.testing.assert_allclose(moved.boxes, view.boxes_to_image(part.boxes))
    np.testing.assert_allclose(moved.centres.boxes, [[17.5, 24.5, 17.5, 24.5]])
    assert len(part[:1].centres) == 1
    assert len(Detections.join([part, moved]).centres) == 2
    assert Detections.join([part, replace(part, centres=None)]).centres is None


def test_codec_can_be_pickled():
    codec = codec_of()
    assert pickle.loads(pickle.dumps(codec)) == codec
    assert set(CORNERS) < set(KEYPOINTS)
