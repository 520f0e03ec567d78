# SPDX-License-Identifier: Apache-2.0
"""Draws boxes, labels, heatmaps and contact sheets on BGR images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from pointdet.arrays import Float32Array, Image
from pointdet.structures import Annotation, Detections

Colour = tuple[int, int, int]  # BGR

# Clear on photographs, and different from their neighbours in this list. Further labels repeat the list.
PALETTE = (
    "ff7f0e", "1fa8ff", "32d74b", "ff453a", "bf5af2", "ffd60a", "00c7be", "ff6bb5", "a2845e", "7d7aff",
    "9be15d", "e8590c", "5fd4ff", "d6336c", "c0b283", "2f9e44", "4263eb", "ffb3c1", "b197fc", "12b886",
)  # fmt: skip
BACKGROUND = 32


def class_colour(label: int) -> Colour:
    """The colour of a class, which is the same in all images."""
    code = PALETTE[label % len(PALETTE)]
    return int(code[4:6], 16), int(code[2:4], 16), int(code[0:2], 16)


def draw_detections(image: Image, found: Detections, class_names: Sequence[str], threshold: float) -> Image:
    """A copy of `image` with the detections (boxes_image) of score >= `threshold`, the best one on top."""
    found = found[found.scores >= threshold].best(len(found))[::-1]
    texts = [f"{class_names[i]} {s:.2f}" for i, s in zip(found.labels, found.scores, strict=True)]
    return _draw(image, found.boxes, texts, [class_colour(int(label)) for label in found.labels])


def draw_annotation(image: Image, annotation: Annotation, class_names: Sequence[str]) -> Image:
    """A copy of `image` with the objects (boxes_image) of its annotation."""
    texts = [
        f"{class_names[label]}{' (ignored)' * bool(ignored)}"
        for label, ignored in zip(annotation.labels, annotation.ignore, strict=True)
    ]
    return _draw(image, annotation.boxes, texts, [class_colour(int(label)) for label in annotation.labels])


def draw_heatmap(image: Image, heatmap: Float32Array) -> Image:
    """Overlay a (C, h, w) heatmap of probabilities, maximum over classes, on a darkened image.

    `image` is the network's input. Cell (x, y) is drawn at its pixel (x, y) times the stride.
    """
    height, width = image.shape[:2]
    strongest = heatmap.max(axis=0).astype(np.float32)
    rows, columns = strongest.shape
    stride = np.array([[width / columns, 0, 0], [0, height / rows, 0]])
    full = cv2.warpAffine(strongest, stride, (width, height), borderMode=cv2.BORDER_REPLICATE)
    heat = np.clip(full, 0, 1)[..., None]
    light = cv2.applyColorMap(np.round(heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    opacity = np.sqrt(heat)  # makes weak peaks visible
    return np.asarray(np.round(0.55 * image * (1 - opacity) + light * opacity), np.uint8)


def contact_sheet(images: Sequence[Image], columns: int) -> Image:
    """All images in rows of `columns`. Each is centred in a tile of the size of the largest, on dark grey."""
    if not images:
        raise ValueError("a contact sheet needs at least one image")
    columns = min(columns, len(images))
    height, width = max(i.shape[0] for i in images), max(i.shape[1] for i in images)
    gap = max(4, round(max(height, width) / 64))
    rows = math.ceil(len(images) / columns)
    shape = (rows * (height + gap) + gap, columns * (width + gap) + gap, 3)
    sheet = np.full(shape, BACKGROUND, np.uint8)
    for position, image in enumerate(images):
        row, column = divmod(position, columns)
        top = gap + row * (height + gap) + (height - image.shape[0]) // 2
        left = gap + column * (width + gap) + (width - image.shape[1]) // 2
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def _draw(image: Image, boxes: Float32Array, texts: Sequence[str], colours: Sequence[Colour]) -> Image:
    """Draws all boxes before the labels, so that no box crosses a label."""
    height, width = image.shape[:2]
    scale = (math.sqrt(height * width) / 640) ** 0.8  # lines grow more slowly than the image
    thickness = max(1, round(2 * scale))
    # OpenCV's integers overflow for corners far outside, where only the sides inside the image are visible.
    limits = np.array([width, height, width, height])
    corners = np.round(np.clip(boxes, -limits, 2 * limits)).astype(int).tolist()
    shadow = np.array(image, np.uint8, order="C")
    for left, top, right, bottom in corners:
        cv2.rectangle(shadow, (left, top), (right, bottom), (0, 0, 0), thickness + 2)
    # The shadow keeps a box visible on a background of the same colour.
    canvas = cv2.addWeighted(image, 0.65, shadow, 0.35, 0)
    for (left, top, right, bottom), colour in zip(corners, colours, strict=True):
        cv2.rectangle(canvas, (left, top), (right, bottom), colour, thickness)

    picture = Pillow.fromarray(canvas)  # Pillow keeps the channel order, BGR
    pen = ImageDraw.Draw(picture)
    font = _font(max(10, round(15 * scale)))
    for (left, top, _, _), text, colour in zip(corners, texts, colours, strict=True):
        _label(pen, font, text, colour, left - thickness // 2, top - thickness // 2)
    return np.array(picture, np.uint8)


def _label(
    pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, text: str, colour: Colour, left: int, top: int
) -> None:
    """A filled label with its lower left corner on the box, or inside the box if there is no space above."""
    ascent, descent = font.getmetrics()
    margin = max(2, ascent // 4)
    wide, high = math.ceil(font.getlength(text)) + 2 * margin, ascent + descent + 2
    y = top - high if top >= high else top
    x = max(0, min(left, pen.im.size[0] - wide))
    y = max(0, min(y, pen.im.size[1] - high))
    blue, green, red = colour
    dark_text = 0.299 * red + 0.587 * green + 0.114 * blue > 125
    pen.rectangle((x, y, x + wide - 1, y + high - 1), fill=colour)
    pen.text((x + margin, y + 1), text, fill=(0, 0, 0) if dark_text else (255, 255, 255), font=font)


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # Pillow's wheels contain FreeType
    return font
