# SPDX-License-Identifier: Apache-2.0
"""Image and boxes -> Sample: one random View and one random colour matrix, after CenterNet and CornerNet."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from pointdet.config import schema
from pointdet.geometry import View
from pointdet.structures import Annotation, Sample

Pixels = npt.NDArray[np.uint8]
Colour = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]

CROP_BORDER = 128  # pixels of the image; the centre of a crop stays that far inside, less in small images
MIN_SCALE = 0.1  # of the window drawn; with augment.scale 1 it could be nothing at all
GREY = np.array([0.114, 0.587, 0.299])  # OpenCV's weights of B, G, R

# ImageNet's principal colour components (Krizhevsky et al., 2012), rows as the published detectors apply them to BGR.
LIGHTING_DEVIATIONS = np.array([0.2141788, 0.01817699, 0.00341571])
LIGHTING_AXES = np.array(
    [
        [-0.58752847, -0.69563484, 0.41340352],
        [-0.5832747, 0.00994535, -0.81221408],
        [-0.56089297, 0.71832671, 0.41158938],
    ]
)


@dataclass(frozen=True)
class Plain:
    """The whole image without any chance: for validation losses and previews."""

    input: schema.Input
    channels: int = 3

    def draw_view(self, height: int, width: int, rng: np.random.Generator) -> View:
        """As Augmenter's; `rng` is not touched."""
        return View.fit(height, width, self.input.height, self.input.width)

    def sample(
        self,
        image: Pixels,
        annotation: Annotation,
        view: View,
        rng: np.random.Generator,
        out: Pixels | None = None,
        reduction: int = 1,
    ) -> Sample:
        """As Augmenter's; `rng` is not touched."""
        pixels = view.of_reduced(reduction).warp(image, out)
        return Sample(pixels, normalisation(self.input, self.channels), _moved(annotation, view), view)


@dataclass(frozen=True)
class Augmenter:
    """Random crop (or shift and scale), mirror, colour jitter and lighting."""

    augment: schema.Augment
    input: schema.Input
    channels: int = 3

    def sample(
        self,
        image: Pixels,
        annotation: Annotation,
        view: View,
        rng: np.random.Generator,
        out: Pixels | None = None,
        reduction: int = 1,
    ) -> Sample:
        """What `view` shows of an image (h, w, 3) and its boxes_image; `out` (H, W, 3) receives the pixels.

        `image` may be smaller than the file's by `reduction`. boxes_input are not clipped: the codec knows what it
        cannot see.
        """
        seen = view.of_reduced(reduction)
        pixels = seen.warp(image, out)
        jitter = np.eye(3, 4)
        if self.augment.colour:
            jitter = self.draw_jitter(_grey_mean(pixels, seen.reach(*image.shape[:2])), rng)
        colour = _colour(self.input, self.channels, jitter)
        return Sample(pixels, colour, _moved(annotation, view), view)

    def draw_view(self, height: int, width: int, rng: np.random.Generator) -> View:
        """The window of one sample of an image of that size."""
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
        """The window around pixel (x, y) of an image, `factor` times as large as the input, in whole pixels."""
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

    def draw_jitter(self, grey_mean: float, rng: np.random.Generator) -> Matrix:
        """(3, 4): brightness, contrast and saturation in random order, then lighting; BGR in [0, 1] -> BGR.

        Contrast and saturation blend with the grey of the image as it came, so all of them are affine in the pixel.
        `grey_mean` is that of the whole input.
        """
        grey = np.append(GREY, 0.0)
        jitter = np.eye(3, 4)
        for kind in rng.permutation(3):
            factor = 1 + rng.uniform(-self.augment.colour, self.augment.colour)
            jitter *= factor
            if kind == 1:  # contrast
                jitter[:, 3] += (1 - factor) * grey_mean
            elif kind == 2:  # saturation
                jitter += (1 - factor) * grey
        noise = rng.standard_normal(3) * self.augment.lighting
        jitter[:, 3] += LIGHTING_AXES @ (LIGHTING_DEVIATIONS * noise)
        return jitter


def normalisation(input: schema.Input, channels: int) -> Colour:
    """(channels, 4): BGR uint8 -> what the network is fed, in the order it is fed; a fourth channel is zero."""
    return _colour(input, channels, np.eye(3, 4))


def crop_border(size: int) -> int:
    """How far from the edge the centre of a crop stays: 128 halved until both borders leave room between them."""
    border = CROP_BORDER
    while 2 * border >= size:
        border //= 2
    return border


def _grey_mean(pixels: Pixels, reach: tuple[slice, slice]) -> float:
    """The mean grey in [0, 1] of an input that is black beyond `reach`."""
    part = pixels[reach]
    return (
        cv2.mean(cv2.cvtColor(part, cv2.COLOR_BGR2GRAY))[0] / 255 * part.size / pixels.size
        if part.size
        else 0
    )


def _colour(input: schema.Input, channels: int, jitter: Matrix) -> Colour:
    """Normalisation after `jitter` (3, 4), which maps BGR in [0, 1]."""
    fed = jitter[::-1] if input.colour_order == "rgb" else jitter
    normalised = fed.copy()
    normalised[:, 3] -= input.mean
    normalised /= np.array(input.std)[:, None]
    normalised[:, :3] /= 255
    colour = np.zeros((channels, 4), np.float32)
    colour[:3] = normalised
    return colour


def _moved(annotation: Annotation, view: View) -> Annotation:
    boxes = view.boxes_to_input(annotation.boxes)
    return Annotation(boxes, annotation.labels, annotation.ignore, annotation.areas)
