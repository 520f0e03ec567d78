# SPDX-License-Identifier: Apache-2.0
"""Views of images and boxes, and their inverse; IoU against loops."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pointdet.geometry import View, overlaps

FOLDER = Path(__file__).parent / "golden"
GOLDEN_VIEWS = np.load(FOLDER / "views.npz")
VIEWS = {
    "fit": View.fit(90, 140, 64, 128),
    "fit zoomed": View.fit(91, 143, 128, 128, zoom=0.75),
    "keep": View.keep(90, 140),
    "keep zoomed": View.keep(91, 143, zoom=1.25),
    "crop": View.centred((30.5, 71.25), 1.7, 96, 128),
    "crop mirrored": View.centred((30.5, 71.25), 1.7, 96, 128, mirrored=True),
}


def random_boxes(count, seed=0, side=100.0):
    random = np.random.default_rng(seed)
    first = random.uniform(0, side, (count, 2))
    return np.concatenate([first, first + random.uniform(1, side / 2, (count, 2))], axis=1).astype(np.float32)


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_boxes_to_image_is_the_inverse_of_boxes_to_input(view):
    boxes = random_boxes(50)
    boxes_input = view.boxes_to_input(boxes)
    assert boxes_input.dtype == np.float32
    assert (boxes_input[:, 2:] > boxes_input[:, :2]).all()
    np.testing.assert_allclose(view.boxes_to_image(boxes_input), boxes, atol=1e-4)
    assert view.boxes_to_image(np.zeros((0, 4), np.float32)).shape == (0, 4)


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_image_and_boxes_have_the_same_transform(view):
    x, y = 36.25, 66.5  # a blurred spot inside all views
    columns, rows = np.meshgrid(np.arange(140), np.arange(90))
    spot = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 3.0**2)) * 250
    warped = view.warp(np.repeat(spot[..., None], 3, axis=2).astype(np.uint8))
    assert warped.shape == (view.height, view.width, 3)
    weight = warped[..., 1].astype(np.float64)
    rows, columns = np.indices(weight.shape)
    centroid = [(columns * weight).sum() / weight.sum(), (rows * weight).sum() / weight.sum()]
    moved = view.boxes_to_input(np.array([[x, y, x, y]], np.float32))[0]
    np.testing.assert_allclose(moved, [*centroid, *centroid], atol=0.05)


@pytest.mark.parametrize("name", ["fix", "keep"])
def test_input_images_are_golden(name):
    view = {"fix": View.fit(75, 110, 128, 128), "keep": View.keep(75, 110)}[name]
    warped = view.warp(GOLDEN_VIEWS["image"])
    difference = np.abs(warped.astype(int) - GOLDEN_VIEWS[name])
    assert difference.max() <= 2  # versions of OpenCV round differently


@pytest.mark.parametrize(("height", "width"), [(64, 128), (128, 64), (96, 96)])
@pytest.mark.parametrize("image_size", [(90, 140), (140, 90), (50, 50)])
def test_fit_shows_the_whole_image_as_large_as_possible(image_size, height, width):
    image_height, image_width = image_size
    view = View.fit(image_height, image_width, height, width)
    whole = np.array([[0, 0, image_width, image_height]], np.float32)
    left, top, right, bottom = view.boxes_to_input(whole)[0]
    assert (view.height, view.width) == (height, width)
    assert left == pytest.approx(width - right, abs=1e-4)
    assert top == pytest.approx(height - bottom, abs=1e-4)
    assert min(left, top) == pytest.approx(0, abs=1e-4)
    assert (right - left) / (bottom - top) == pytest.approx(image_width / image_height, rel=1e-5)


@pytest.mark.parametrize(
    ("image_size", "settings", "size"),
    [
        ((75, 110), {}, (96, 128)),
        ((96, 127), {}, (128, 128)),  # a side that is a multiple is padded to the next one
        ((75, 110), {"multiple": 128}, (128, 128)),
        ((90, 180), {"multiple": 128, "short": (1, 1)}, (127, 255)),
        ((127, 128), {"multiple": 128, "short": (1, 1)}, (127, 255)),
        ((75, 110), {"zoom": 0.5}, (64, 64)),
        ((75, 110), {"zoom": 1.25}, (96, 160)),
    ],
)
def test_keep_pads_to_the_next_multiple(image_size, settings, size):
    view = View.keep(*image_size, **settings)
    assert (view.height, view.width) == size
    assert view.scale_x == view.scale_y == settings.get("zoom", 1.0)


@pytest.mark.parametrize("settings", [{}, {"multiple": 128, "short": (1, 1)}])
def test_keep_copies_every_pixel(settings):
    image = GOLDEN_VIEWS["image"]
    view = View.keep(*image.shape[:2], **settings)
    top, left = int(view.shift_y), int(view.shift_x)
    expected = np.zeros((view.height, view.width, 3), np.uint8)
    expected[top : top + image.shape[0], left : left + image.shape[1]] = image
    np.testing.assert_array_equal(view.warp(image), expected)


def test_a_mirrored_view_mirrors_pixels_and_swaps_the_sides_of_boxes():
    image = GOLDEN_VIEWS["image"]
    height, width = image.shape[:2]
    view = View(height, width, scale_x=-1.0, scale_y=1.0, shift_x=width - 1.0, shift_y=0.0)
    np.testing.assert_array_equal(view.warp(image), image[:, ::-1])
    whole = View(height, width, scale_x=1.0, scale_y=1.0, shift_x=0.0, shift_y=0.0)
    assert whole.mirrored() == view and view.mirrored() == whole
    boxes = np.array([[10, 20, 30, 50]], np.float32)
    assert view.boxes_to_input(boxes).tolist() == [[width - 31, 20, width - 11, 50]]
    np.testing.assert_array_equal(view.boxes_to_image(view.boxes_to_input(boxes)), boxes)


def test_a_box_of_negative_width_keeps_it():
    # A network can predict one. Swapping its sides would make it a valid detection.
    inverted = np.array([[30, 20, 10, 50]], np.float32)
    for view in VIEWS.values():
        for boxes in (view.boxes_to_input(inverted), view.boxes_to_image(inverted)):
            assert boxes[0, 0] > boxes[0, 2]


@pytest.mark.parametrize("seed", range(6))
def test_only_pixels_covered_by_the_image_are_computed(seed):
    rng = np.random.default_rng(seed)
    image = GOLDEN_VIEWS["image"]
    for _ in range(20):
        centre = tuple(rng.uniform(-30, 140, 2))
        view = View.centred(centre, rng.uniform(0.2, 2.5), 64, 96, mirrored=bool(rng.integers(2)))
        matrix = np.array([[view.scale_x, 0, view.shift_x], [0, view.scale_y, view.shift_y]])
        expected = cv2.warpAffine(image, matrix, (96, 64), flags=cv2.INTER_LINEAR)
        warped = view.warp(image, np.full((64, 96, 3), 7, np.uint8))
        # OpenCV rounds the position of a pixel to 1/32, here from another origin.
        difference = np.abs(warped.astype(int) - expected)
        assert difference.max() <= 8 and difference.mean() < 0.5
        rows, columns = view.reach(*image.shape[:2])
        outside = np.ones((64, 96), bool)
        outside[rows, columns] = False
        assert not expected[outside].any()


def test_view_far_from_the_image_is_black():
    view = View.centred((9000, 9000), 1.0, 64, 96)
    assert not view.warp(GOLDEN_VIEWS["image"], np.full((64, 96, 3), 7, np.uint8)).any()


@pytest.mark.parametrize(
    ("scale", "size", "expected"),
    [
        (0.51, (800, 800), 1),
        (0.5, (800, 800), 2),
        (0.2, (800, 800), 4),
        (0.01, (800, 800), 8),
        (0.01, (804, 800), 4),
    ],
)
def test_reduction(scale, size, expected):
    assert View.centred((0, 0), scale, 64, 64).reduction(*size) == expected


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_view_of_a_reduced_image_equals_that_of_the_image(reduction, mirrored):
    y, x = np.mgrid[:256, :320]
    image = np.stack([x * 0.7, y * 0.9, 120 + 50 * np.sin(x / 40)], axis=2)
    means = image.reshape(256 // reduction, reduction, 320 // reduction, reduction, 3).mean((1, 3))
    view = View.centred((161.3, 120.8), 0.99 / reduction, 16, 20, mirrored)
    whole = view.warp(np.rint(image).astype(np.uint8)).astype(int)
    reduced = view.of_reduced(reduction).warp(np.rint(means).astype(np.uint8)).astype(int)
    inner = np.s_[2:-2, 2:-2]
    assert whole[inner].std() > 10
    assert np.abs(whole[inner] - reduced[inner]).max() <= 2


def test_warp_writes_in_place():
    view = View.fit(75, 110, 64, 96)
    batch = np.full((2, 64, 96, 3), 7, np.uint8)
    view.warp(GOLDEN_VIEWS["image"], out=batch[1])
    np.testing.assert_array_equal(batch[1], view.warp(GOLDEN_VIEWS["image"]))
    assert (batch[0] == 7).all()
    with pytest.raises(ValueError, match="out must be"):
        view.warp(GOLDEN_VIEWS["image"], out=np.zeros((64, 64, 3), np.uint8))


@pytest.mark.parametrize("border", [0.0, 1.0])
def test_overlaps_equal_a_loop(border):
    boxes, others = random_boxes(12, seed=1), random_boxes(9, seed=2)
    result = overlaps(boxes, others, border)
    assert result.shape == (12, 9)
    assert (result > 0).any() and (result == 0).any()
    for i, (ax1, ay1, ax2, ay2) in enumerate(boxes.tolist()):
        for j, (bx1, by1, bx2, by2) in enumerate(others.tolist()):
            width = max(min(ax2, bx2) - max(ax1, bx1) + border, 0)
            height = max(min(ay2, by2) - max(ay1, by1) + border, 0)
            area_a = (ax2 - ax1 + border) * (ay2 - ay1 + border)
            area_b = (bx2 - bx1 + border) * (by2 - by1 + border)
            assert result[i, j] == pytest.approx(width * height / (area_a + area_b - width * height))


def test_overlaps_of_points_and_of_no_boxes():
    point = np.array([[3, 3, 3, 3]], np.float32)
    no_boxes = np.zeros((0, 4), np.float32)
    assert overlaps(point, point).tolist() == [[0]]
    assert overlaps(point, point, border=1.0).tolist() == [[1]]
    assert overlaps(no_boxes, point).shape == (0, 1)
    assert overlaps(point, no_boxes).shape == (1, 0)
