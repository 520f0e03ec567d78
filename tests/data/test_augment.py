# SPDX-License-Identifier: Apache-2.0
"""Views and colours of training samples, compared with published samples and a plain loop over pixels."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pointdet.config import schema
from pointdet.data.augment import (
    LIGHTING_AXES,
    LIGHTING_DEVIATIONS,
    Augmenter,
    crop_border,
    normalisation,
)
from pointdet.geometry import View
from pointdet.structures import Annotation, Sample

INPUT = schema.InputConfig(height=128, width=128)
Golden = Callable[[str], dict[str, Any]]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def network_input(sample: Sample) -> npt.NDArray[np.float64]:
    """(H, W, C): the input after colour jitter and normalisation."""
    return sample.image.astype(np.float64) @ sample.colour[:, :3].T.astype(np.float64) + sample.colour[:, 3]


def random_sample(
    augmenter: Augmenter,
    image: npt.NDArray[np.uint8],
    annotation: Annotation,
    generator: np.random.Generator,
    out: npt.NDArray[np.uint8] | None = None,
) -> Sample:
    view = augmenter.random_view(*image.shape[:2], generator)
    return augmenter.sample(image, annotation, view, generator, out)


def grey_mean(pixels: npt.NDArray[np.uint8]) -> float:
    return float((pixels @ np.array([0.114, 0.587, 0.299])).mean() / 255)


@pytest.fixture
def image() -> npt.NDArray[np.uint8]:
    return rng(5).integers(0, 256, (90, 140, 3), np.uint8)


def golden_view(case: dict[str, Any], name: str, width: int) -> View:
    x, y = case[f"{name}/centre"].tolist()
    mirrored = bool(case[f"{name}/mirrored"].item())
    x = width - x - 1 if mirrored else x
    return View.centred((x, y), 128 / float(case[f"{name}/side"]), 128, 128, mirrored)


@pytest.mark.parametrize("name", ["train_crop", "train_crop_flip", "train_shift", "train_shift_flip"])
def test_boxes_of_published_samples(golden: Golden, name: str) -> None:
    case = golden("augment.npz")
    view = golden_view(case, name, case["image_bgr"].shape[1])
    boxes_cells = np.clip(view.boxes_to_input(case["boxes"]) / 4, 0, 31)
    seen = (boxes_cells[:, 2:] > boxes_cells[:, :2]).all(axis=1)
    np.testing.assert_allclose(boxes_cells[seen], case[f"{name}/boxes_cells"][:, :4], atol=2e-5)
    np.testing.assert_array_equal(case["labels"][seen], case[f"{name}/boxes_cells"][:, 5])


def test_pixels_of_a_published_mirrored_sample(golden: Golden) -> None:
    case = golden("augment.npz")
    view = golden_view(case, "train_crop_flip", case["image_bgr"].shape[1])
    difference = view.warp(case["image_bgr"]).astype(int) - case["train_crop_flip/pixels"]
    assert np.abs(difference).max() <= 2


class PublishedDraws:
    """A generator that returns the draws of a published sample, which used a smaller border."""

    def __init__(self, case: dict[str, Any], name: str) -> None:
        self.scale, x, y, mirrored = case[f"{name}/scale_cx_cy_mirrored"].tolist()
        self.centre, self.mirrored = [int(x), int(y)], bool(mirrored)

    def choice(self, scales: tuple[float, ...]) -> float:
        assert self.scale in scales
        return self.scale

    def integers(self, low: int, high: int) -> int:
        return self.centre.pop(0)

    def random(self) -> float:
        return 0.0 if self.mirrored else 1.0


@pytest.mark.parametrize("name", ["crop", "crop_mirrored"])
def test_published_samples_of_cornernet(golden: Golden, name: str) -> None:
    case = golden("cornernet_augment.npz")
    augmenter = Augmenter(
        schema.AugmentConfig(crop_window="input"), schema.InputConfig(height=127, width=127)
    )
    view = augmenter.random_view(90, 140, PublishedDraws(case, name))  # type: ignore[arg-type]
    corners_cells = np.clip(view.boxes_to_input(case["boxes"]), 0, 126).reshape(-1, 2, 2) * (32 / 127)
    seen = (corners_cells[:, 1] > corners_cells[:, 0]).all(axis=1)
    for corner, published in enumerate(("top_left", "bottom_right")):
        np.testing.assert_allclose(corners_cells[seen, corner], case[f"{name}/{published}"], atol=2e-5)
    # The published code resizes the image with pixel edges aligned and the boxes with pixel centres aligned;
    # PointDet uses pixel centres for both. At the border of the window, the published image repeats its last
    # pixel where ours shows the pixels beyond the window.
    edge_x, edge_y = (np.sign(s) * (abs(s) - 1) / 2 for s in (view.scale_x, view.scale_y))
    edges = replace(view, shift_x=view.shift_x + edge_x, shift_y=view.shift_y + edge_y)
    difference = edges.warp(case["image"]).astype(int) - case[f"{name}/pixels"]
    assert np.abs(difference[3:-3, 3:-3]).max() <= 2


def test_crop_window_input_has_fixed_sizes_in_image_pixels() -> None:
    settings = schema.AugmentConfig(crop_window="input", flip=0.0)
    augmenter = Augmenter(settings, schema.InputConfig(height=255, width=511))
    generator = rng()
    for height, width in [(300, 500), (2000, 3000)]:
        views = [augmenter.random_view(height, width, generator) for _ in range(400)]
        windows = {(round(511 / view.scale_x, 9), round(255 / view.scale_y, 9)) for view in views}
        factors = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)
        assert windows == {(int(511 * factor), int(255 * factor)) for factor in factors}


@pytest.mark.parametrize(
    ("size", "border"),
    [(1000, 128), (257, 128), (256, 64), (129, 64), (128, 32), (90, 32), (3, 1), (2, 0), (1, 0)],
)
def test_crop_border(size: int, border: int) -> None:
    assert crop_border(size) == border


def test_random_crops_have_the_published_ranges() -> None:
    augmenter = Augmenter(schema.AugmentConfig(), INPUT)
    generator = rng()
    views = [augmenter.random_view(300, 500, generator) for _ in range(4000)]
    scales = np.array([view.scale_y for view in views])
    expected = 128 / 500 / np.array([0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3])
    counts = np.isclose(scales[:, None], expected).sum(axis=0)
    assert counts.sum() == 4000
    assert counts.min() > 400  # of 500 expected, standard deviation 21
    x = np.array([(64 - view.shift_x) / view.scale_x for view in views])
    y = np.array([(64 - view.shift_y) / view.scale_y for view in views])
    np.testing.assert_allclose([x.min(), x.max()], [128, 371])  # a border of 128; every column occurs
    np.testing.assert_allclose([y.min(), y.max()], [128, 171])
    np.testing.assert_allclose(x, np.round(x), atol=1e-9)
    assert 1850 < sum(view.scale_x < 0 for view in views) < 2150


def test_random_shifts_have_the_published_ranges() -> None:
    augmenter = Augmenter(schema.AugmentConfig(crop=False, flip=0.0), INPUT)
    generator = rng()
    views = [augmenter.random_view(300, 500, generator) for _ in range(4000)]
    factors = 128 / 500 / np.array([view.scale_x for view in views])
    assert abs(factors.min() - 0.6) < 1e-9 and abs(factors.max() - 1.4) < 1e-9
    unclipped = np.mean((factors > 0.6 + 1e-9) & (factors < 1.4 - 1e-9))
    assert abs(unclipped - 0.683) < 0.03  # within one standard deviation
    shifts = np.array([(64 - view.shift_x) / view.scale_x for view in views]) - 250
    assert abs(shifts.min() + 100) < 1e-9 and abs(shifts.max() - 100) < 1e-9
    inside = shifts[np.abs(shifts) < 99]
    assert abs(inside.std() - 0.88 * 50) < 2  # a normal distribution truncated at two standard deviations


@pytest.mark.parametrize("order", ["bgr", "rgb"])
@pytest.mark.parametrize("channels", [3, 4])
def test_normalisation(image: npt.NDArray[np.uint8], order: Any, channels: int) -> None:
    settings = schema.InputConfig(colour_order=order)
    matrix = normalisation(settings, channels)
    assert matrix.shape == (channels, 4) and matrix.dtype == np.float32
    seen = image.astype(np.float64) @ matrix[:, :3].T + matrix[:, 3]
    source = image[..., ::-1] if order == "rgb" else image
    expected = (source / 255 - np.array(settings.mean)) / np.array(settings.std)
    np.testing.assert_allclose(seen[..., :3], expected, atol=1e-5)
    np.testing.assert_array_equal(seen[..., 3:], 0)


class Recorder:
    """A generator that records its draws."""

    def __init__(self, seed: int) -> None:
        self.source = rng(seed)
        self.permutations: list[list[int]] = []
        self.factors: list[float] = []
        self.normals: list[npt.NDArray[np.float64]] = []

    def permutation(self, count: int) -> npt.NDArray[np.int64]:
        order = self.source.permutation(count)
        self.permutations.append(order.tolist())
        return order

    def uniform(self, low: float, high: float) -> float:
        self.factors.append(self.source.uniform(low, high))
        return self.factors[-1]

    def standard_normal(self, count: int) -> npt.NDArray[np.float64]:
        self.normals.append(self.source.standard_normal(count))
        return self.normals[-1]


@pytest.mark.parametrize("seed", range(8))
def test_colour_equals_a_plain_loop_over_pixels(image: npt.NDArray[np.uint8], seed: int) -> None:
    settings = schema.AugmentConfig()
    recorder = Recorder(seed)
    jitter = Augmenter(settings, INPUT).random_jitter(grey_mean(image[:8, :8]), recorder)  # type: ignore[arg-type]
    assert sorted(recorder.permutations[0]) == [0, 1, 2]

    source = image[:8, :8] / 255.0
    grey = source[..., 0] * 0.114 + source[..., 1] * 0.587 + source[..., 2] * 0.299
    mean = grey.sum() / grey.size
    expected = source.copy()
    for kind, change in zip(recorder.permutations[0], recorder.factors, strict=True):
        assert -0.4 <= change <= 0.4
        a = 1 + change
        for y in range(8):
            for x in range(8):
                for c in range(3):
                    blend = (0.0, mean, grey[y, x])[kind]
                    expected[y, x, c] = a * expected[y, x, c] + (1 - a) * blend
    for c in range(3):
        alphas = recorder.normals[0] * settings.lighting
        expected[..., c] += math.fsum(
            LIGHTING_AXES[c, i] * LIGHTING_DEVIATIONS[i] * alphas[i] for i in range(3)
        )
    np.testing.assert_allclose(source @ jitter[:, :3].T + jitter[:, 3], expected, atol=1e-12)


def test_sample_is_warped_jittered_and_normalised(image: npt.NDArray[np.uint8]) -> None:
    augmenter = Augmenter(schema.AugmentConfig(), INPUT, channels=4)
    annotation = Annotation.of([[10, 20, 60, 70], [100, 5, 130, 30]], [1, 0])
    sample = random_sample(augmenter, image, annotation, rng(3))

    draws = rng(3)
    view = augmenter.random_view(90, 140, draws)
    pixels = view.warp(image)
    jitter = augmenter.random_jitter(grey_mean(pixels), draws)
    jittered = pixels / 255 @ jitter[:, :3].T + jitter[:, 3]
    expected = (jittered - np.array(INPUT.mean)) / np.array(INPUT.std)
    np.testing.assert_array_equal(sample.image, pixels)
    np.testing.assert_allclose(network_input(sample)[..., :3], expected, atol=1e-5)
    np.testing.assert_array_equal(network_input(sample)[..., 3], 0)
    np.testing.assert_array_equal(sample.annotation.boxes, view.boxes_to_input(annotation.boxes))
    np.testing.assert_array_equal(sample.annotation.labels, annotation.labels)


def test_colour_0_means_no_jitter(image: npt.NDArray[np.uint8]) -> None:
    sample = random_sample(
        Augmenter(schema.AugmentConfig(colour=0.0), INPUT), image, Annotation.of([], []), rng()
    )
    np.testing.assert_array_equal(sample.colour, normalisation(INPUT, 3))


def test_pixels_are_written_to_out(image: npt.NDArray[np.uint8]) -> None:
    out = np.zeros((128, 128, 3), np.uint8)
    sample = random_sample(Augmenter(schema.AugmentConfig(), INPUT), image, Annotation.of([], []), rng(), out)
    assert sample.image is out or np.shares_memory(sample.image, out)
    np.testing.assert_array_equal(
        out,
        random_sample(Augmenter(schema.AugmentConfig(), INPUT), image, Annotation.of([], []), rng()).image,
    )


def test_without_augmentation_the_view_fits_the_whole_image(image: npt.NDArray[np.uint8]) -> None:
    annotation = Annotation.of([[0, 0, 140, 90]], [0])
    settings = schema.AugmentConfig(flip=0, crop=False, shift=0, scale=0, colour=0)
    augmenter = Augmenter(settings, INPUT)
    assert augmenter.random_view(90, 140, rng()) == View.fit(90, 140, 128, 128)
    sample = random_sample(augmenter, image, annotation, rng())
    np.testing.assert_allclose(
        sample.annotation.boxes, [[0, 64 - 45 * 128 / 140, 128, 64 + 45 * 128 / 140]], rtol=1e-6
    )
    np.testing.assert_array_equal(sample.colour, normalisation(INPUT, 3))


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (500, 3)])
@pytest.mark.parametrize("crop", [True, False])
def test_extreme_images_and_settings(shape: tuple[int, int], crop: bool) -> None:
    augmenter = Augmenter(
        schema.AugmentConfig(crop=crop, scale=0.99), schema.InputConfig(height=64, width=96)
    )
    generator = rng()
    for _ in range(50):
        sample = random_sample(
            augmenter, np.zeros((*shape, 3), np.uint8), Annotation.of([[0, 0, 1, 1]], [0]), generator
        )
        assert sample.image.shape == (64, 96, 3)
        assert np.isfinite(sample.annotation.boxes).all()


def test_augmenter_can_be_pickled() -> None:
    augmenter = Augmenter(schema.AugmentConfig(), INPUT)
    assert pickle.loads(pickle.dumps(augmenter)) == augmenter
