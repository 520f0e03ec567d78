# SPDX-License-Identifier: Apache-2.0
"""Synthetic dataset of drawn shapes in the COCO layout. The same seed gives the same bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pointdet.arrays import BoolArray, Float32Array, Float64Array, Image, UInt8Array
from pointdet.errors import DISK, PointDetError
from pointdet.files import write_text

Mask = UInt8Array  # (h, w), 0 to 255: the share of each pixel that the shape covers
Points = Float64Array  # (n, 2) corners around the origin, |x|, |y| <= 1

MIN_SIZE = 8  # pixels, longer side of a shape
MAX_SHARE = 0.5  # of the image's shorter side
MAX_OBJECTS = 3
VISIBLE = 0.4  # objects with a smaller visible share are not annotated
HUE_SPREAD = 6  # standard deviation of the hue, which is in [0, 180); the classes are 45 apart
SUBPIXEL = 4  # fractional bits of coordinates in OpenCV's drawing functions


def _regular(corners: int, inner: float = 1.0) -> Points:
    """A regular polygon with its first corner at the top; with `inner` < 1, a star with this inner radius."""
    count = corners if inner == 1.0 else 2 * corners
    angles = np.arange(count) * 2 * np.pi / count - np.pi / 2
    radii = np.where(np.arange(count) % 2, inner, 1.0)
    points: Points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]
    return points


OUTLINES: dict[str, Points] = {
    "circle": _regular(64),
    "square": np.array([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]),
    "triangle": _regular(3),
    "star": _regular(5, inner=0.45),
}


@dataclass(frozen=True)
class Shape:
    """One drawn object."""

    label: int
    mask: Mask  # (H, W) of the whole image, including hidden parts
    box_image: tuple[float, float, float, float]  # tight, including hidden parts


def draw_shapes(
    folder: str | Path, images: int, seed: int, height: int = 256, width: int = 256, split: str = "train"
) -> None:
    """Write `images` pictures to folder/split and their annotations to
    folder/annotations/instances_split.json.

    The longer side of an object is between 8 pixels and half of the image. Backgrounds are noisy. Objects may
    cover each other; an object that is mostly hidden is not annotated. If it does not end, neither the pictures
    nor annotations stay. Errors: PointDetError if a file cannot be written.
    """
    folder = Path(folder)
    annotations, written = folder / "annotations" / f"instances_{split}.json", list[Path]()
    try:
        (folder / split).mkdir(parents=True, exist_ok=True)
        annotations.unlink(missing_ok=True)  # those of other pictures, which are now replaced
        write_text(annotations, json.dumps(_draw(folder / split, images, seed, height, width, written)))
    except BaseException as error:
        for path in written:
            path.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        fix = "free space or choose another folder" if error.errno in DISK else "choose another folder"
        raise PointDetError(
            f"cannot write the pictures in {folder / split} ({error.strerror}); {fix}"
        ) from None


def _draw(
    folder: Path, images: int, seed: int, height: int, width: int, written: list[Path]
) -> dict[str, object]:
    """Write pictures to `folder`, and return their annotations. Adds each path to `written` before it is written."""
    entries: list[dict[str, object]] = []
    objects: list[dict[str, object]] = []
    for index in range(images):
        picture, shapes = draw_picture(np.random.default_rng([seed, index]), height, width)
        name = f"{index:06d}.jpg"
        encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
        written.append(folder / name)
        written[-1].write_bytes(encoded.tobytes())
        entries.append({"id": index + 1, "file_name": name, "height": height, "width": width})
        for shape in shapes:
            x1, y1, x2, y2 = shape.box_image
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": index + 1,
                    "category_id": shape.label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": float(np.count_nonzero(shape.mask > 127)),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(OUTLINES)]
    return {"images": entries, "annotations": objects, "categories": categories}


def draw_picture(rng: np.random.Generator, height: int, width: int) -> tuple[Image, list[Shape]]:
    """One picture (height, width, 3) BGR and its visible shapes."""
    picture = _background(rng, height, width)
    shapes: list[Shape] = []
    for _ in range(rng.integers(1, MAX_OBJECTS + 1)):
        shape = _random_shape(rng, height, width)
        left, top, right, bottom = (int(side) for side in shape.box_image)
        window = slice(top, bottom + 2), slice(left, right + 2)
        share = shape.mask[window][..., None].astype(np.float32) / 255
        fill = _fill(shape.label, rng, *share.shape[:2])
        picture[window] = (picture[window] * (1 - share) + fill * share + 0.5).astype(np.uint8)
        shapes.append(shape)
    return picture, _visible(shapes)


def _background(rng: np.random.Generator, height: int, width: int) -> Image:
    """(height, width, 3): nearly grey, with stripes, smooth noise at two scales, and pixel noise."""
    picture = _textured(np.full(3, rng.uniform(90, 165)) + rng.uniform(-12, 12, 3), rng, height, width)
    for cells in (3, 9):
        noise = rng.normal(0, 10, (cells, cells, 3)).astype(np.float32)
        picture += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _fill(label: int, rng: np.random.Generator, height: int, width: int) -> Float32Array:
    """(height, width, 3): a saturated colour near the hue of the class, with stripes and pixel noise.

    Outline and colour both depend on the class, so a small network learns the classes within minutes.
    """
    hue = round(180 * label / len(OUTLINES) + rng.normal(0, HUE_SPREAD)) % 180
    saturation, value = rng.integers(170, 256), rng.integers(140, 256)
    colour = cv2.cvtColor(np.array([[[hue, saturation, value]]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0]
    return _textured(colour.astype(np.float64), rng, height, width)


def _textured(colour: Float64Array, rng: np.random.Generator, height: int, width: int) -> Float32Array:
    """(height, width, 3): a colour with stripes of random strength and direction, and with pixel noise."""
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 24)
    y, x = np.ogrid[:height, :width]
    stripes = np.sin((x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period)) * rng.uniform(0, 20)
    noise = rng.normal(0, 5, (height, width))
    texture: Float32Array = np.clip(colour + (stripes + noise)[..., None], 0, 255).astype(np.float32)
    return texture


def _random_shape(rng: np.random.Generator, height: int, width: int) -> Shape:
    """A shape of random class, size, rotation and aspect ratio, completely inside the image."""
    label = int(rng.integers(len(OUTLINES)))
    corners = list(OUTLINES.values())[label]
    angle = rng.uniform(-0.35, 0.35)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    corners = (corners * (1, rng.uniform(0.7, 1.0))) @ rotation
    corners -= corners.min(axis=0)
    # The square root favours large shapes.
    size = MIN_SIZE + np.sqrt(rng.uniform()) * (MAX_SHARE * min(height, width) - MIN_SIZE)
    corners *= (size - 1) / corners.max()
    free = np.array([width - 1, height - 1]) - corners.max(axis=0)
    corners += rng.uniform(0, 1, 2) * free
    mask = np.zeros((height, width), np.uint8)
    points = np.round(corners * (1 << SUBPIXEL)).astype(np.int32)
    cv2.fillPoly(mask, [points], [255], cv2.LINE_AA, SUBPIXEL)
    x1, y1 = corners.min(axis=0).tolist()
    x2, y2 = corners.max(axis=0).tolist()
    return Shape(label, mask, (round(x1, 2), round(y1, 2), round(x2, 2), round(y2, 2)))


def _visible(shapes: list[Shape]) -> list[Shape]:
    """The shapes that are visible enough: later shapes cover earlier ones."""
    seen = []
    covered: BoolArray | None = None
    for shape in reversed(shapes):
        own = shape.mask > 127
        covered = np.zeros_like(own) if covered is None else covered
        if np.count_nonzero(own & ~covered) >= VISIBLE * np.count_nonzero(own):
            seen.append(shape)
        covered = covered | own
    return seen[::-1]
