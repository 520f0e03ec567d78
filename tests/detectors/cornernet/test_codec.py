# SPDX-License-Identifier: Apache-2.0
"""The CornerNet codec against golden targets and pairs; decode is the inverse of encode."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from corners import encoded, golden_view

from pointdet.config.schema import CornerNetConfig
from pointdet.detectors.cornernet.codec import CORNERS, CornerNetCodec
from pointdet.structures import Annotation, Detections

GOLDEN = np.load(Path(__file__).parents[2] / "golden/cornernet_codec.npz")
CASES = sorted({key.rpartition("/")[0] for key in GOLDEN if key.endswith("_index")})


def codec_of(num_classes=4, height=127, width=127, **settings):
    return CornerNetCodec.of(CornerNetConfig(**settings), num_classes, height, width)


def random_boxes(random, height, width):
    """At most 40 boxes without common cells of corners: a cell has one tag and one offset."""
    first = random.uniform(0, [width - 8, height - 8], (40, 2))
    second = np.minimum(first + random.uniform(1, 200, (40, 2)), [width - 1.5, height - 1.5])
    boxes = np.concatenate([first, second], axis=1).astype(np.float32)
    ratio = np.ceil(np.array([width, height]) / 4) / [width, height]
    for corner in (slice(0, 2), slice(2, 4)):
        cells = (boxes[:, corner] * ratio).astype(int)
        boxes = boxes[np.unique(cells, axis=0, return_index=True)[1]]
    return boxes


def in_order(labels, boxes):
    return sorted(zip(labels.tolist(), boxes.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_decode_is_the_inverse_of_encode(seed):
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 5, 2) * 128 - random.integers(0, 2)
    boxes = random_boxes(random, height, width)
    labels = random.integers(0, 6, len(boxes))
    codec = codec_of(6, int(height), int(width))

    targets, overflow = encoded(codec, Annotation.of(boxes, labels))
    found = codec.decode(codec.maps_from_targets(targets), len(boxes))

    assert overflow == 0
    best = found[found.scores == 1]
    np.testing.assert_array_equal(best.corner_scores, 1)
    expected, ours = in_order(labels, boxes), in_order(best.labels, best.boxes)
    assert [label for label, _ in ours] == [label for label, _ in expected]
    np.testing.assert_allclose([box for _, box in ours], [box for _, box in expected], atol=2e-4)


@pytest.mark.parametrize("case", CASES)
def test_targets_are_golden(case):
    view, side, overlap = golden_view(GOLDEN[f"{case}/input_overlap_side_cx_cy_mirrored"])
    system = case.partition("/")[0]
    boxes = view.boxes_to_input(GOLDEN[f"{system}/boxes"])
    codec = codec_of(height=side, width=side, min_overlap=overlap)
    targets, overflow = encoded(codec, Annotation.of(boxes, GOLDEN[f"{system}/labels"]))

    count = len(GOLDEN[f"{case}/top_left_index"])
    assert overflow == 0
    np.testing.assert_array_equal(targets["mask"], np.arange(128) < count)
    # Golden objects may be sorted by class.
    objects = np.lexsort([GOLDEN[f"{case}/{corner}_index"] for corner in CORNERS])
    ours = np.lexsort([targets[f"{corner}_index"][:count] for corner in CORNERS])
    for corner in CORNERS:
        heatmap = GOLDEN[f"{case}/{corner}_heatmap"]
        np.testing.assert_allclose(targets[f"{corner}_heatmap"], heatmap, atol=1e-6)
        assert targets[f"{corner}_positives"] == (heatmap == 1).sum()
        index, offset = targets[f"{corner}_index"], targets[f"{corner}_offset"]
        np.testing.assert_array_equal(index[ours], GOLDEN[f"{case}/{corner}_index"][objects])
        np.testing.assert_allclose(offset[ours], GOLDEN[f"{case}/{corner}_offset"][objects], atol=5e-6)
        assert not index[count:].any() and not offset[count:].any()


@pytest.mark.parametrize(
    ("box", "cells", "offsets", "radius"),
    [
        ([100, 50, 300, 400], [1561, 12875], [[0.0489, 0.5245], [0.1468, 0.1957]], 14),
        ([200.3, 200.9, 204.2, 206.1], [6450, 6579], None, 0),
    ],
)
def test_worked_examples(box, cells, offsets, radius):
    targets, _ = encoded(codec_of(height=511, width=511), Annotation.of([box], [2]))
    assert [targets[f"{corner}_index"][0] for corner in CORNERS] == cells
    for corner, offset in zip(CORNERS, offsets or [], strict=False):
        np.testing.assert_allclose(targets[f"{corner}_offset"][0], offset, atol=5e-5)
    for corner in CORNERS:
        heatmap = targets[f"{corner}_heatmap"]
        assert heatmap.shape == (4, 128, 128)
        assert (heatmap[2] > 0).any(axis=0).sum() == 2 * radius + 1


@pytest.mark.parametrize(("side", "cells"), [(511, 128), (512, 128), (127, 32), (96, 24)])
def test_cells_are_a_quarter_or_a_little_more(side, cells):
    codec = codec_of(height=side, width=side)
    assert codec.target_shapes()["bottom_right_heatmap"] == (4, cells, cells)
    targets, _ = encoded(codec, Annotation.of([[8, 16, 80, 72]], [0]))
    place = targets["top_left_index"][0] % cells + targets["top_left_offset"][0, 0]
    assert place == pytest.approx(8 * cells / side, rel=1e-6)


def test_five_hundred_objects():
    random = np.random.default_rng(3)
    first = random.uniform(0, 480, (500, 2))
    boxes = np.concatenate([first, first + random.uniform(4, 30, (500, 2))], axis=1)
    annotation = Annotation.of(boxes, random.integers(0, 4, 500))
    few, overflow = encoded(codec_of(height=511, width=511), annotation)
    assert overflow == 372
    assert few["mask"].sum() == 128
    many, overflow = encoded(codec_of(height=511, width=511, max_objects=500), annotation)
    assert overflow == 0
    assert many["mask"].sum() == 500
    np.testing.assert_array_equal(many["top_left_index"][:128], few["top_left_index"])
    for targets in (few, many):
        for corner in CORNERS:
            assert targets[f"{corner}_positives"] == (targets[f"{corner}_heatmap"] == 1).sum()


def test_invisible_objects_have_no_row():
    boxes = [[-50, 10, -4, 30], [126, 0, 200, 40], [20, 20, 20, 60], [60, 60, 40, 80], [8, 8, 40, 40]]
    targets, overflow = encoded(codec_of(max_objects=1), Annotation.of(boxes, [0, 1, 2, 3, 1]))
    assert overflow == 0
    assert targets["top_left_index"].tolist() == [2 * 32 + 2]
    assert not targets["top_left_heatmap"][[0, 2, 3]].any()


def test_no_objects():
    targets, overflow = encoded(codec_of(), Annotation.of([], []))
    assert overflow == 0
    assert not any(target.any() for target in targets.values())
    assert len(codec_of().decode(codec_of().maps_from_targets(targets), 100)) == 0


def test_positives_count_a_shared_cell_once():
    boxes = [[40, 40, 72, 72], [40, 40, 100, 100], [40, 40, 72, 72]]
    targets, _ = encoded(codec_of(), Annotation.of(boxes, [2, 2, 3]))
    assert (targets["top_left_positives"], targets["bottom_right_positives"]) == (2, 3)


def probability(logits):
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


def golden_maps():
    kinds = {"heatmap": "logits", "offset": "offset", "tag": "tag"}
    maps = {f"{c}_{ours}": GOLDEN[f"decode/{c}_{kind}"] for c in CORNERS for ours, kind in kinds.items()}
    return {name: probability(a) if "heatmap" in name else a for name, a in maps.items()}


def test_pairs_are_golden():
    expected = GOLDEN["decode/pairs"]  # in cells
    found = codec_of(5, 128, 128).decode(golden_maps(), 100)
    assert len(found) == len(expected) > 100
    np.testing.assert_allclose(found.boxes, 4 * expected[:, :4], rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(found.scores, expected[:, 4], rtol=1e-5)
    np.testing.assert_allclose(found.corner_scores, expected[:, 5:7], rtol=1e-5)
    np.testing.assert_array_equal(found.labels, expected[:, 7])
    dtypes = [a.dtype for a in (found.boxes, found.labels, found.scores, found.corner_scores)]
    assert dtypes == [np.float32, np.int64, np.float32, np.float32]


def test_number_of_candidates_is_the_larger_of_setting_and_count():
    maps = golden_maps()
    everything = codec_of(5, 128, 128).decode(maps, 100)
    for candidates, count, expected in [(20, 5, 20), (20, 50, 50)]:
        some = codec_of(5, 128, 128, candidates=candidates).decode(maps, count)
        np.testing.assert_array_equal(some.boxes, everything.boxes[:expected])
    assert len(codec_of(5, 128, 128, top_k=1, tag_distance=1e9).decode(maps, 100)) <= 1


def single_corners(tags=(0.0, 0.0), labels=(1, 1), cells=((2, 3), (9, 8)), offsets=((0, 0), (0, 0))):
    """Maps with one corner of each kind; cells and offsets are x, y."""
    maps = {}
    for corner, tag, label, (x, y), offset in zip(CORNERS, tags, labels, cells, offsets, strict=True):
        maps[f"{corner}_heatmap"] = np.zeros((3, 12, 16), np.float32)
        maps[f"{corner}_heatmap"][label, y, x] = 0.5
        maps[f"{corner}_tag"] = np.full((1, 12, 16), tag, np.float32)
        maps[f"{corner}_offset"] = np.tile(np.float32(offset)[:, None, None], (1, 12, 16))
    return maps


@pytest.mark.parametrize(
    ("maps", "count"),
    [
        (single_corners(), 1),
        (single_corners(tags=(1.0, 1.5)), 1),
        (single_corners(tags=(1.0, 1.51)), 0),
        (single_corners(tags=(1.51, 1.0)), 0),
        (single_corners(labels=(1, 2)), 0),
        (single_corners(cells=((9, 3), (2, 8))), 0),
        (single_corners(cells=((2, 8), (9, 3))), 0),
        (single_corners(cells=((2, 3), (2, 3))), 1),  # a point is accepted
        (single_corners(cells=((2, 3), (2, 3)), offsets=((0.5, 0), (0.4, 0.9))), 0),
    ],
)
def test_conditions_of_a_pair(maps, count):
    assert len(codec_of(3, 48, 64).decode(maps, 10)) == count


def test_equal_scores_are_in_the_order_of_their_corners():
    targets, _ = encoded(
        codec_of(2), Annotation.of([[60, 8, 90, 30], [8, 60, 30, 90], [8, 8, 40, 40]], [1, 0, 0])
    )
    found = codec_of(2).decode(codec_of(2).maps_from_targets(targets), 10)
    best = found[found.scores == 1]
    np.testing.assert_allclose(best.boxes[:, :2], [[8, 8], [8, 60], [60, 8]], atol=1e-4)


def test_corners_of_a_constant_map_are_its_first_cells():
    maps = single_corners()
    for corner in CORNERS:
        maps[f"{corner}_heatmap"][:] = 0.25
    found = codec_of(3, 48, 64, top_k=4).decode(maps, 100)
    expected = [[4 * left, 0, 4 * right, 0] for left in range(4) for right in range(left, 4)]
    np.testing.assert_array_equal(found.boxes, expected)
    assert not found.labels.any() and (found.scores == 0.25).all()


@pytest.mark.parametrize("side", [127, 128])
def test_boxes_of_the_mirror_image_are_mirrored(side):
    boxes = np.float32([[10, 20, 60, 50], [30.5, 4.25, 99.75, 80]])
    mirrored_boxes = side - 1 - boxes[:, [2, 1, 0, 3]]
    mirrored_boxes[:, [1, 3]] = boxes[:, [1, 3]]
    codec = codec_of(height=side, width=side)
    maps = [
        codec.maps_from_targets(encoded(codec, Annotation.of(b, [1, 3]))[0]) for b in (boxes, mirrored_boxes)
    ]
    found = codec.decode(maps[0], 10, maps[1])
    own = codec.decode(maps[0], 10)
    assert len(found) == 2 * len(own)
    np.testing.assert_array_equal(found.boxes[: len(own)], own.boxes)
    mirrored = found[len(own) :]
    np.testing.assert_allclose(mirrored[mirrored.scores == 1].boxes, boxes, atol=1e-4)
    shifted = codec_of(height=side, width=side, published=True).decode(maps[0], 10, maps[1])[len(own) :]
    np.testing.assert_allclose(shifted.boxes, mirrored.boxes + [1, 0, 1, 0], atol=1e-4)


def test_maps_of_another_size_are_decoded():
    for height, width, side in [(127, 255, 511), (64, 256, 512)]:
        targets, _ = encoded(codec_of(height=height, width=width), Annotation.of([[10, 20, 200, 50]], [3]))
        codec = codec_of(height=side, width=side)
        found = codec.decode(codec.maps_from_targets(targets), 1)
        np.testing.assert_allclose(found.boxes[0], [10, 20, 200, 50], atol=1e-4)


@pytest.mark.parametrize("suppress", [False, True])
def test_candidates_are_clipped_to_the_image_and_suppressed(suppress):
    boxes = np.float32([[-5, 10, 30, 40], [0, 10, 30, 44], [50, 50, 70, 130]])
    corner_scores = np.float32([[0.9, 0.7], [0.8, 0.7], [0.5, 0.7]])
    found = Detections(boxes, np.array([1, 1, 1]), corner_scores.mean(axis=1), corner_scores)
    best = codec_of().select([(1.0, found)], (100, 60), suppress, 2)
    np.testing.assert_array_equal(best.boxes, [[0, 10, 30, 40], [50, 50, 60, 100]])
    assert best.scores.tolist() == found.scores[[0, 2]].tolist()


def test_codec_can_be_pickled():
    codec = codec_of()
    assert pickle.loads(pickle.dumps(codec)) == codec
