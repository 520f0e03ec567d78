# SPDX-License-Identifier: Apache-2.0
"""Preview pictures of the training data: augmented images with the boxes decoded from their targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from pointdet.arrays import Float32Array, Image
from pointdet.codec import Codec
from pointdet.config.schema import InputConfig
from pointdet.data.loader import Loader
from pointdet.drawing import draw_detections, draw_heatmap
from pointdet.errors import PointDetError


def write_previews(
    loader: Loader, codec: Codec, settings: InputConfig, class_names: Sequence[str], folder: Path, count: int
) -> list[Path]:
    """Write `count` previews of the first epoch: the image with its boxes on the left, the heatmaps to its
    right.

    The boxes are decoded from the targets, so a mistake at any step from the file to the targets is visible.

    Errors: PointDetError if a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for batch in loader.epoch(0):
        for i in range(len(batch["image"])):
            if len(paths) == count:
                return paths
            picture = _colours(batch["image"][i], batch["colour"][i], settings)
            maps = codec.maps_from_targets(
                {name: np.array(batch[name][i], np.float32) for name in codec.target_shapes()}
            )
            found = codec.decode(maps, int(batch["mask"][i].sum()))
            heatmaps = [draw_heatmap(picture, maps[name]) for name in codec.heatmaps]
            sides = [draw_detections(picture, found, class_names, 0.999), *heatmaps]
            path = folder / f"preview_{len(paths):03d}.jpg"
            if not cv2.imwrite(str(path), np.hstack(sides)):
                raise PointDetError(f"cannot write {path}; choose another -o")
            paths.append(path)
    return paths


def _colours(image: Image, colour: Float32Array, settings: InputConfig) -> Image:
    """The image after colour jitter, without normalisation, uint8 BGR."""
    seen = image.astype(np.float32) @ colour[:3, :3].T + colour[:3, 3]
    pixels = (seen * np.array(settings.std) + np.array(settings.mean)) * 255
    if settings.colour_order == "rgb":
        pixels = pixels[..., ::-1]
    return np.ascontiguousarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))
