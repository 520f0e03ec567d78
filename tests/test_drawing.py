# SPDX-License-Identifier: Apache-2.0
"""Positions of drawn boxes, labels within the image, heatmaps, contact sheets."""

import numpy as np
import pytest

from pointdet.drawing import (
    PALETTE,
    class_colour,
    contact_sheet,
    draw_detections,
    draw_heatmap,
)
from pointdet.structures import Detections

NAMES = ["cat", "dog"]


def grey(height=240, width=320, value=90):
    return np.full((height, width, 3), value, np.uint8)


def make_detections(boxes, labels, scores):
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64), np.array(scores, np.float32)
    )


def test_class_colours_are_fixed_and_differ():
    colours = {class_colour(label) for label in range(len(PALETTE))}
    assert len(colours) == len(PALETTE)
    assert class_colour(len(PALETTE)) == class_colour(0) == (14, 127, 255)


def test_box_is_drawn_in_its_colour_on_a_copy():
    image = grey()
    drawn = draw_detections(image, make_detections([[100, 60, 200, 180]], [1], [0.8]), NAMES, 0.3)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    assert (image == 90).all()
    for y, x in [(120, 100), (120, 200), (180, 150), (60, 190)]:
        assert tuple(drawn[y, x]) == class_colour(1)
    assert (drawn[64:176, 104:196] == 90).all()  # the inside is not drawn
    assert (drawn[190:] == 90).all()
    label = (drawn[40:60, 98:160] == class_colour(1)).all(axis=2)
    assert label.mean() > 0.3 and (drawn[40:60, 98:160] < 30).all(axis=2).any()  # dark letters


def test_detections_below_the_threshold_are_left_out():
    found = make_detections([[100, 60, 200, 180], [20, 60, 60, 180]], [0, 1], [0.3, 0.29])
    drawn = draw_detections(grey(), found, NAMES, np.float32(0.3))
    assert tuple(drawn[120, 100]) == class_colour(0) and tuple(drawn[120, 20]) == (90, 90, 90)
    assert (draw_detections(grey(), found, NAMES, 0.5) == 90).all()


def test_the_label_of_the_better_detection_is_on_top():
    found = make_detections([[50, 60, 200, 180], [52, 60, 200, 180]], [0, 1], [0.9, 0.5])
    strip = draw_detections(grey(), found, NAMES, 0.3)[45:58, 50:100]
    same = [(strip == class_colour(label)).all(axis=2).sum() for label in (0, 1)]
    assert same[0] > 4 * same[1]


@pytest.mark.parametrize(
    "box",
    [[-50, -40, 30, 20], [300, 230, 400, 300], [-1e9, -1e9, 1e9, 1e9], [310, 0, 319, 5], [5, 236, 9, 239]],
)
def test_label_is_within_the_image(box):
    # For every position of the box the label has the size of that of a box in the middle.
    def label_pixels(where):
        drawn = draw_detections(grey(), make_detections([where], [0], [0.9]), NAMES, 0.3)
        return (drawn == class_colour(0)).all(axis=2).sum(), (drawn < 50).all(axis=2).sum()

    middle, outside = label_pixels([150, 100, 152, 102]), label_pixels(box)
    assert outside[1] >= 0.9 * middle[1] > 10  # all its letters
    assert outside[0] >= 0.8 * middle[0]


@pytest.mark.parametrize("height, width", [(8, 8), (40, 600), (1500, 2000)])
def test_images_of_every_size(height, width):
    drawn = draw_detections(grey(height, width), make_detections([[2, 2, 6, 6]], [0], [0.9]), NAMES, 0.3)
    assert drawn.shape == (height, width, 3) and (drawn != 90).any()


def test_no_detections():
    assert (draw_detections(grey(), make_detections([], [], []), NAMES, 0.3) == 90).all()


def test_heatmap_is_brightest_at_the_pixel_of_its_cell():
    heatmap = np.zeros((2, 16, 24), np.float32)
    heatmap[1, 5, 9] = 1.0
    drawn = draw_heatmap(grey(64, 96), heatmap)
    light = drawn.astype(int).sum(axis=2)
    assert np.unravel_index(light.argmax(), light.shape) == (20, 36)
    assert (drawn[40:, :20] == round(0.55 * 90)).all()  # dark elsewhere


def test_contact_sheet_contains_all_images():
    images = [grey(40, 60, value) for value in (50, 100, 150)] + [grey(20, 30, 200)]
    sheet = contact_sheet(images, 3)
    assert sheet.shape == (2 * 40 + 3 * 4, 3 * 60 + 4 * 4, 3)
    assert [(sheet == value).all(axis=2).sum() for value in (50, 100, 150, 200)] == [2400, 2400, 2400, 600]
    assert contact_sheet(images[:1], 3).shape == (48, 68, 3)
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([], 3)
