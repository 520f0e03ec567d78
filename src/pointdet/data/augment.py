# SPDX-License-Identifier: Apache-2.0
"""Image and boxes -> Sample: a random View and a random colour matrix, as in CenterNet and CornerNet."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from pointdet.arrays import Float32Array, Float64Array, Image
from pointdet.config import schema
from pointdet.geometry import View
from pointdet.structures import Annotation, Sample

Colour = Float32Array  # (C, 4): the network sees colour[:, :3] @ pixel + colour[:, 3], see Sample

CROP_BORDER = 128  # pixels of the image between its edges and the centre of a crop; less in small images
MIN_SCALE = 0.1  # of the random window; avoids a division by almost 0 with a large augment.scale
GREY = np.array([0.114, 0.587, 0.299])  # OpenCV's weights of B, G and R

# Principal components of ImageNet's colours (Krizhevsky et al., 2012, section 4.1). The published detectors
# apply the rows in this order to BGR.
LIGHTING_DEVIATIONS = np.array([0.2141788, 0.01817699, 0.00341571])
LIGHTING_AXES = np.array(
    [
        [-0.58752847, -0.69563484, 0.41340352],
        [-0.5832747, 0.00994535, -0.81221408],
        [-0.56089297, 0.71832671, 0.41158938],
    ]
)


@dataclass(frozen=True)
class Augmenter:
    """Random crop (or shift and scale), horizontal flip, colour jitter and PCA lighting noise."""

    augment: schema.AugmentConfig
    input: schema.InputConfig
    channels: int = 3  # of the network's input

    def sample(
        self,
        image: Image,
        annotation: Annotation,
        view: View,
        rng: np.random.Generator,
        out: Image | None = None,
        reduction: int = 1,
    ) -> Sample:
        """The sample of an image (h, w, 3) and its boxes_image, seen through `view`.

        `out` (H, W, 3), if given, receives the pixels. `reduction`: `image` was decoded at 1 / `reduction` of
        the size that `view` and `annotation` refer to. boxes_input are not clipped to the input; the codec
        does that.
        """
        seen = view.of_reduced(reduction)
        pixels = seen.warp(image, out)
        jitter = np.eye(3, 4)
        if self.augment.colour:
            jitter = self.random_jitter(_grey_mean(pixels, seen.reach(*image.shape[:2])), rng)
        colour = _colour(self.input, self.channels, jitter)
        boxes = view.boxes_to_input(annotation.boxes)
        return Sample(pixels, colour, replace(annotation, boxes=boxes))

    def random_view(self, height: int, width: int, rng: np.random.Generator) -> View:
        """A random window of an image of `height` x `width` pixels."""
        settings = self.augment
        scale = min(self.input.height / height, self.input.width / width)
        if settings.crop:
            factor = rng.choice(settings.crop_scales)
            left, top = crop_border(width), crop_border(height)
            x, y = int(rng.integers(left, width - left)), int(rng.integers(top, height - top))
            if settings.crop_window == "input":
                window = self._window(x, y, factor)
                return window.mirrored() if rng.random() < settings.flip else window
            scale /= factor
            centre = (float(x), float(y))
        else:
            shift = np.clip(rng.standard_normal(2) * settings.shift, -2 * settings.shift, 2 * settings.shift)
            centre_x, centre_y = np.array([width, height]) / 2 + max(height, width) * shift
            centre = (float(centre_x), float(centre_y))
            noise = np.clip(rng.standard_normal() * settings.scale, -settings.scale, settings.scale)
            scale /= max(1 + float(noise), MIN_SCALE)
        mirrored = bool(rng.random() < settings.flip)
        return View.centred(centre, float(scale), self.input.height, self.input.width, mirrored)

    def _window(self, x: int, y: int, factor: float) -> View:
        """The window around pixel (x, y) of an image: `factor` times the input size, in whole pixels."""
        height, width = int(self.input.height * factor), int(self.input.width * factor)
        scale_x, scale_y = self.input.width / width, self.input.height / height
        return View(
            height=self.input.height,
            width=self.input.width,
            scale_x=scale_x,
            scale_y=scale_y,
            shift_x=scale_x * (width // 2 - x),
            shift_y=scale_y * (height // 2 - y),
        )

    def random_jitter(self, grey_mean: float, rng: np.random.Generator) -> Float64Array:
        """(3, 4), BGR in [0, 1] -> BGR: brightness, contrast and saturation in random order, then lighting
        noise.

        Contrast and saturation blend the pixel with the grey value of the original image, so the result is
        affine in the original pixel. `grey_mean`: mean grey value, in [0, 1], of the whole input.
        """
        grey = np.append(GREY, 0.0)
        jitter = np.eye(3, 4)
        for kind in rng.permutation(3):  # 0 is brightness
            factor = 1 + rng.uniform(-self.augment.colour, self.augment.colour)
            jitter *= factor
            if kind == 1:  # contrast
                jitter[:, 3] += (1 - factor) * grey_mean
            elif kind == 2:  # saturation
                jitter += (1 - factor) * grey
        noise = rng.standard_normal(3) * self.augment.lighting
        jitter[:, 3] += LIGHTING_AXES @ (LIGHTING_DEVIATIONS * noise)
        return jitter


def normalisation(input: schema.InputConfig, channels: int) -> Colour:
    """(channels, 4): BGR uint8 -> normalised, in the order of `input.colour_order`. A fourth channel is 0."""
    return _colour(input, channels, np.eye(3, 4))


def crop_border(size: int) -> int:
    """Pixels between an edge and the centre of a crop: 128, halved until two borders are less than `size`."""
    border = CROP_BORDER
    while 2 * border >= size:
        border //= 2
    return border


def _grey_mean(pixels: Image, reach: tuple[slice, slice]) -> float:
    """The mean grey value in [0, 1] of an input that is black outside `reach` (rows, columns)."""
    part = pixels[reach]
    return (
        cv2.mean(cv2.cvtColor(part, cv2.COLOR_BGR2GRAY))[0] / 255 * part.size / pixels.size
        if part.size
        else 0
    )


def _colour(input: schema.InputConfig, channels: int, jitter: Float64Array) -> Colour:
    """(channels, 4): `jitter` (3, 4), which maps BGR in [0, 1], followed by normalisation."""
    normalised = (jitter[::-1] if input.colour_order == "rgb" else jitter).copy()
    normalised[:, 3] -= input.mean
    normalised /= np.array(input.std)[:, None]
    normalised[:, :3] /= 255
    colour = np.zeros((channels, 4), np.float32)
    colour[:3] = normalised
    return colour
