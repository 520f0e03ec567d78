# SPDX-License-Identifier: Apache-2.0
"""Pictures of what the network is about to learn from: augmented images, and boxes read back out of their targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from pointdet.config.schema import Input
from pointdet.drawing import draw_detections, draw_heatmap
from pointdet.errors import PointDetError
from pointdet.structures import Detections, Maps

if TYPE_CHECKING:
    from pointdet.data.loader import Loader

Pixels = npt.NDArray[np.uint8]


class Decoder(Protocol):
    """See `detectors.base.Codec`."""

    def target_shapes(self) -> dict[str, tuple[int, ...]]: ...

    def painted(self, targets: Maps) -> Maps: ...

    def decode(self, maps: Maps, count: int) -> Detections: ...


def write_previews(
    loader: Loader, codec: Decoder, settings: Input, class_names: Sequence[str], folder: Path, count: int
) -> list[Path]:
    """Write `count` images of the first epoch: on the left the boxes, beside them the heatmaps.

    The boxes are decoded from the targets, so a fault anywhere between file and target shows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for batch in loader.epoch(0):
        for i in range(len(batch["image"])):
            if len(paths) == count:
                return paths
            picture = _colours(batch["image"][i], batch["colour"][i], settings)
            maps = codec.painted(
                {name: np.array(batch[name][i], np.float32) for name in codec.target_shapes()}
            )
            found = codec.decode(maps, int(batch["mask"][i].sum()))
            heatmaps = [draw_heatmap(picture, maps[name]) for name in maps if name.endswith("heatmap")]
            sides = [draw_detections(picture, found, class_names, 0.999), *heatmaps]
            path = folder / f"preview_{len(paths):03d}.jpg"
            if not cv2.imwrite(str(path), np.hstack(sides)):
                raise PointDetError(f"cannot write {path}; choose another -o")
            paths.append(path)
    return paths


def _colours(image: Pixels, colour: npt.NDArray[np.float32], settings: Input) -> Pixels:
    """The image with its colour jitter, as a picture again."""
    seen = image.astype(np.float32) @ colour[:3, :3].T + colour[:3, 3]
    pixels = (seen * np.array(settings.std) + np.array(settings.mean)) * 255
    if settings.colour_order == "rgb":
        pixels = pixels[..., ::-1]
    return np.ascontiguousarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))
