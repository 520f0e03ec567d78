# SPDX-License-Identifier: Apache-2.0
"""Image -> detections with given maps instead of a network, against golden results and drawn boxes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pointdet.config.schema import CornerNetConfig, CtDetConfig, InputConfig, TestConfig, TripletConfig
from pointdet.detectors.cornernet.codec import CornerNetCodec
from pointdet.detectors.ctdet.codec import CtDetCodec
from pointdet.detectors.triplet.codec import TripletCodec
from pointdet.errors import PointDetError
from pointdet.inference.predictor import Predictor
from pointdet.structures import Annotation

FOLDER = Path(__file__).parents[1] / "golden"
# case of ctdet_e2e*.npz -> its test settings
CASES = {
    "fix": TestConfig(),
    "fix_flip": TestConfig(flip=True),
    "fix_nms": TestConfig(soft_nms=True),
    "fix_ms": TestConfig(scales=(0.5, 1.0)),
    "keep": TestConfig(keep_resolution=True),
    "keep_ms_flip": TestConfig(keep_resolution=True, flip=True, scales=(0.5, 0.75, 1.0, 1.25, 1.5)),
}


def predictor(network, test, num_classes=5, side=128):
    codec = CtDetCodec.of(CtDetConfig(), num_classes, side, side)
    names = [f"class {label}" for label in range(num_classes)]
    return Predictor(network, codec, InputConfig(height=side, width=side), test, names)


@pytest.fixture(scope="module")
def golden():
    return {**np.load(FOLDER / "ctdet_e2e.npz"), **np.load(FOLDER / "ctdet_e2e_scales.npz")}


@pytest.fixture(scope="module")
def golden_image():
    return np.load(FOLDER / "views.npz")["image"]


@pytest.mark.parametrize("case", CASES)
def test_detections_equal_golden_results(case, golden, golden_image):
    def network(images):
        batch, height, width, _ = images.shape
        assert batch == (2 if CASES[case].flip else 1)
        key = f"{height // 4}x{width // 4}"
        offset = golden[f"{key}/offset"]  # that of the mirror image is NaN, because it must not be used
        return {
            "heatmap": (1 / (1 + np.exp(-golden[f"{key}/logits"]))).astype(np.float32)[:batch],
            "size": golden[f"{key}/size"][:batch],
            "offset": np.concatenate([offset, np.full_like(offset, np.nan)])[:batch],
        }

    expected = golden[case]  # rows of x1 y1 x2 y2 score and 1-based label, sorted by class
    expected = expected[np.argsort(-expected[:, 4], kind="stable")]
    found = predictor(network, CASES[case])(golden_image)
    assert len(found) == 100
    np.testing.assert_allclose(found.scores, expected[:, 4], rtol=1e-5)
    np.testing.assert_array_equal(found.labels + 1, expected[:, 5])
    np.testing.assert_allclose(found.boxes, expected[:, :4], rtol=1e-5, atol=1e-4)


MERGED = {"merge_exponent": 10}
# (file, case) -> its detector settings and test settings
CORNER_CASES = {
    **{
        (file, case): settings
        for file in ("cornernet_e2e", "triplet_e2e")
        for case, settings in {
            "single": ({}, TestConfig(flip=True)),
            "single_linear": ({"suppression": "linear"}, TestConfig(flip=True)),
            "single_nms": ({"suppression": "hard"}, TestConfig(flip=True, max_detections=60)),
            "merge10": (MERGED, TestConfig(flip=True)),
            "ms": (MERGED, TestConfig(flip=True, scales=(0.6, 1.0, 1.5))),
        }.items()
    },
    ("cornernet_simple_e2e", "single"): (MERGED, TestConfig(max_detections=128)),
    ("cornernet_simple_e2e", "single_flip"): (MERGED, TestConfig(flip=True, max_detections=128)),
    ("cornernet_simple_e2e", "ms_flip"): (
        MERGED,
        TestConfig(flip=True, scales=(0.75, 1.0, 1.25), max_detections=128),
    ),
}


class ClippedAtEachScale(Predictor):
    """Clips boxes to the resized image, as the published code does.

    The sides of the resized image are rounded down to whole pixels, so that it ends up to a pixel before
    ours.
    """

    def _decode(self, view, maps, mirrored):
        found = super()._decode(view, maps, mirrored)
        sides = np.floor(np.multiply(self.image_size[::-1], view.scale_x)) / view.scale_x
        return replace(found, boxes=np.clip(found.boxes, 0, np.float32([*sides, *sides])))


def corner_codec(file, **settings):
    if file == "triplet_e2e":
        return TripletCodec(CornerNetCodec.of(TripletConfig(published=True, **settings), 4, 511, 511))
    return CornerNetCodec.of(CornerNetConfig(published=True, **settings), 4, 511, 511)


@pytest.mark.parametrize(("file", "case"), CORNER_CASES)
def test_published_detections_of_corners_are_reproduced(file, case):
    arrays = np.load(FOLDER / f"{file}.npz")
    settings, test = CORNER_CASES[file, case]
    scales = iter(test.scales)

    def network(images):
        scale = next(scales)
        maps = {}
        for key in (key for key in arrays if key.startswith(f"{scale:g}/")):
            name, array = key.partition("/")[2], arrays[key]
            assert images.shape[1:3] == tuple(4 * side - 1 for side in array.shape[2:])
            if name.endswith("logits"):
                name, array = name.replace("logits", "heatmap"), (1 / (1 + np.exp(-array))).astype(np.float32)
            maps[name] = array
        return {name: array[: len(images)] for name, array in maps.items()}

    codec = corner_codec(file, **settings)
    test = test.model_copy(update={"keep_resolution": True})
    how = ClippedAtEachScale if file == "cornernet_simple_e2e" else Predictor
    predict = how(network, codec, InputConfig(height=511, width=511), test, list("abcd"), granularity=128)
    predict.image_size = arrays["image_size"]
    expected = arrays[case]
    expected = expected[np.argsort(-expected[:, 4], kind="stable")]
    found = predict(np.zeros((*arrays["image_size"], 3), np.uint8))
    np.testing.assert_allclose(found.scores, expected[:, 4], rtol=1e-5)
    np.testing.assert_array_equal(found.labels + 1, expected[:, 5])
    np.testing.assert_allclose(found.boxes, expected[:, :4], rtol=1e-5, atol=1e-4)


class RectangleNetwork:
    """A mock of a trained network. It detects the white rectangle of an image and records batch shapes."""

    def __init__(self):
        self.batches = []
        self.memory = {}

    def __call__(self, images):
        self.batches.append(images.shape)
        batch, height, width, _ = images.shape
        codec = CtDetCodec.of(CtDetConfig(), 2, height, width)
        shape = (batch, 2, height // 4, width // 4)
        fresh = {name: np.empty(shape, np.float32) for name in ("heatmap", "size", "offset")}
        maps = self.memory.setdefault(images.shape, fresh)  # reused for each shape, as in a static graph
        for index, image in enumerate(images):
            rows, columns = np.nonzero(image[..., 0] > 127)
            box = [columns.min(), rows.min(), columns.max(), rows.max()]
            targets = {name: np.empty(shape, np.float32) for name, shape in codec.target_shapes().items()}
            codec.encode(Annotation.of([box], [1]), targets)
            maps["heatmap"][index] = targets["heatmap"]
            for name in ("size", "offset"):
                maps[name][index] = targets[name][0][:, None, None]
        return maps


def draw_rectangle(height, width, box):
    image = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = box
    image[y1 : y2 + 1, x1 : x2 + 1] = 255
    return image


SCENES = [(90, 140, (20, 30, 99, 65)), (150, 101, (40, 21, 80, 120)), (128, 128, (8, 60, 47, 83))]


@pytest.mark.parametrize("keep", [False, True], ids=["fit", "keep"])
@pytest.mark.parametrize("flip", [False, True], ids=["plain", "flip"])
@pytest.mark.parametrize("scales", [(1.0,), (0.5,), (0.75, 1.5)], ids=str)
def test_boxes_are_in_image_coordinates(keep, flip, scales):
    predict = predictor(
        RectangleNetwork(), TestConfig(keep_resolution=keep, flip=flip, scales=scales, max_detections=1), 2
    )
    for height, width, box in SCENES:
        found = predict(draw_rectangle(height, width, box))
        # Resizing moves an edge by up to a pixel, the flip test moves the centre by up to a cell.
        np.testing.assert_allclose(found.boxes, [box], atol=(1 + 4 * flip) / min(scales))
        assert found.labels.tolist() == [1]


@pytest.mark.parametrize("keep", [False, True], ids=["fit", "keep"])
@pytest.mark.parametrize("flip", [False, True], ids=["plain", "flip"])
def test_detections_do_not_depend_on_the_batch_size(keep, flip):
    images = [draw_rectangle(*scene) for scene in [*SCENES, SCENES[0], SCENES[1]]]
    settings = {"keep_resolution": keep, "flip": flip, "scales": (1.0, 0.5), "max_detections": 7}
    single, batched = RectangleNetwork(), RectangleNetwork()
    expected = [predictor(single, TestConfig(**settings), 2)(image) for image in images]
    results = predictor(batched, TestConfig(**settings, batch_size=2), 2).predict(images)
    assert len(batched.batches) < len(single.batches)
    assert max(shape[0] for shape in batched.batches) == (4 if flip else 2)
    for in_batch, one_by_one in zip(results, expected, strict=True):
        np.testing.assert_array_equal(in_batch.boxes, one_by_one.boxes)
        np.testing.assert_array_equal(in_batch.labels, one_by_one.labels)
        np.testing.assert_array_equal(in_batch.scores, one_by_one.scores)


def test_the_second_half_of_a_flip_batch_is_mirrored():
    seen = []

    def network(images):
        seen.append(images.copy())
        return RectangleNetwork()(images)

    predict = predictor(network, TestConfig(flip=True, batch_size=3), 2)
    predict.predict([draw_rectangle(*scene) for scene in SCENES])
    (images,) = seen
    np.testing.assert_array_equal(images[3:], images[:3, :, ::-1])
    np.testing.assert_array_equal(images[0], predict.prepare(draw_rectangle(*SCENES[0])).windows[0][1])


def test_prepared_images_have_the_same_detections():
    predict = predictor(RectangleNetwork(), TestConfig(scales=(1.0, 0.5)), 2)
    images = [draw_rectangle(*scene) for scene in SCENES]
    prepared = [predict.prepare(image) for image in images]
    for of_prepared, of_image in zip(predict.detect(prepared), predict.predict(images), strict=True):
        np.testing.assert_array_equal(of_prepared.boxes, of_image.boxes)
    assert predict.predict([]) == []


def test_detections_of_all_scales_share_the_limit_and_soft_nms():
    predict = predictor(RectangleNetwork(), TestConfig(scales=(0.5, 1.0, 1.25), max_detections=20), 2)
    found = predict(draw_rectangle(*SCENES[0]))
    assert len(found) <= 20
    assert (np.diff(found.scores) <= 0).all()
    assert found.scores[0] == 1
    assert found.scores[1] < 0.5  # the same rectangle at the other scales


def test_maps_of_each_scale_are_copies():
    network = RectangleNetwork()
    predict = predictor(network, TestConfig(keep_resolution=True, flip=True, scales=(1.0, 0.5)), 2)
    image = draw_rectangle(*SCENES[0])
    pairs = predict.maps(image)
    assert [pixels.shape for pixels, _ in pairs] == [(96, 160, 3), (64, 96, 3)]
    assert [maps["heatmap"].shape for _, maps in pairs] == [(2, 24, 40), (2, 16, 24)]
    before = [maps["offset"].copy() for _, maps in pairs]
    predict(draw_rectangle(90, 140, (3, 5, 77, 80)))
    for (_, maps), offset in zip(pairs, before, strict=True):
        np.testing.assert_array_equal(maps["offset"], offset)


def test_kept_resolution_is_a_multiple_of_the_granularity():
    codec, test = (
        CtDetCodec.of(CtDetConfig(), 2, 128, 128),
        TestConfig(keep_resolution=True, scales=(1.0, 0.5)),
    )
    predict = Predictor(
        RectangleNetwork(), codec, InputConfig(height=128, width=128), test, ["a", "b"], granularity=128
    )
    sizes = [
        pixels.shape[:2] for _, pixels in predict.prepare(draw_rectangle(127, 140, (3, 5, 77, 80))).windows
    ]
    assert sizes == [(128, 256), (128, 128)]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (None, "NoneType"),
        (np.zeros((20, 30), np.uint8), r"uint8 \(20, 30\)"),
        (np.zeros((20, 30, 4), np.uint8), r"uint8 \(20, 30, 4\)"),
        (np.zeros((20, 30, 3), np.float32), "float32"),
    ],
)
def test_other_arrays_than_images_raise_an_error(image, words):
    with pytest.raises(PointDetError, match=words):
        predictor(RectangleNetwork(), TestConfig())(image)
