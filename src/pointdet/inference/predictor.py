# SPDX-License-Identifier: Apache-2.0
"""Predictor: image -> view -> network -> maps -> detections; the one way to detect anything in this house."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from pointdet.config.schema import Input, Test
from pointdet.errors import PointDetError
from pointdet.geometry import View
from pointdet.structures import Detections, Maps

if TYPE_CHECKING:
    from pointdet.detectors.base import Codec
    from pointdet.inference.restore import Model

Image = npt.NDArray[np.uint8]  # (H, W, 3) BGR
Result = TypeVar("Result")


@dataclass(frozen=True)
class Prepared:
    """One image as the network sees it, at each scale."""

    height: int  # of the image
    width: int
    windows: list[tuple[View, Image]]


class Network(Protocol):
    def __call__(self, images: npt.NDArray[np.uint8]) -> Maps:
        """(B, H, W, 3) BGR, of sides it takes -> maps (B, C, h, w); the next call may overwrite them."""


class Predictor:
    """Finds objects in images, at one or several scales, with or without the help of the mirror image."""

    def __init__(
        self,
        network: Network,
        codec: Codec,
        input: Input,
        test: Test,
        class_names: Sequence[str],
        granularity: int = 32,
    ) -> None:
        """`granularity`: of the network's input; sides of images at their own resolution become its multiples."""
        self.network = network
        self.codec = codec
        self.input = input
        self.test = test
        self.class_names = tuple(class_names)
        self.granularity = granularity

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str = "cpu", engine: str | None = None) -> Predictor:
        """The predictor of a checkpoint folder, such as ``runs/mine/checkpoints/best``, or of an .onnx or .nnp file.

        device: cpu or cudnn. engine: nnabla or onnxruntime; that of .onnx and .nnp files is known.
        Errors: PointDetError for what cannot be loaded, or a device or engine that does not work.
        """
        # They wake NNabla, which other users of this room do without.
        from pointdet.inference import engine as engines
        from pointdet.inference.restore import restore
        from pointdet.runtime import start

        chosen = engines.of(Path(path), engine)
        return cls.of(engines.on_engine(restore(Path(path), start(device)), chosen))

    @classmethod
    def of(cls, model: Model) -> Predictor:
        """The predictor of a restored detector, as its configuration says."""
        config = model.config
        return cls(
            *(model.network(), model.detector.codec, config.input, config.test, model.class_names),
            granularity=config.model.granularity,
        )

    def __call__(self, image: Image) -> Detections:
        """The objects of one BGR image: boxes_image, best first, at most test.max_detections.

        Boxes may stick out of the image. Raises PointDetError where `image` is not (H, W, 3) uint8.
        """
        return self.predict([image])[0]

    def predict(self, images: Sequence[Image]) -> list[Detections]:
        """As a call, for several images; inputs of the same size share a forward pass."""
        return self.detect([self.prepare(image) for image in images])

    def prepare(self, image: Image) -> Prepared:
        """The work before the network; threads may do it for the next images while the network runs."""
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,):
            given = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise PointDetError(f"an image must be a BGR uint8 array (height, width, 3), not {given}")
        height, width, _ = image.shape
        views = [self._view(height, width, scale) for scale in self.test.scales]
        return Prepared(height, width, [(view, view.warp(image)) for view in views])

    def detect(self, images: Sequence[Prepared]) -> list[Detections]:
        """The work of the network and after it, for prepared images: what a call returns, for each."""
        found = iter(self._run([window for image in images for window in image.windows], self._decode))
        return [self._select(image, [next(found) for _ in image.windows]) for image in images]

    def maps(self, image: Image) -> list[tuple[Image, Maps]]:
        """What detections are read from, to be looked at: input image and maps (C, h, w) for each scale.

        They are the image's own; what its mirror image adds is not in them.
        """
        windows = self.prepare(image).windows
        maps = self._run(windows, lambda _, maps, mirrored: {name: own.copy() for name, own in maps.items()})
        return [(pixels, own) for (_, pixels), own in zip(windows, maps, strict=True)]

    def _view(self, height: int, width: int, scale: float) -> View:
        if self.test.keep_resolution:
            short = (-self.input.height % 4, -self.input.width % 4)  # 1 for CornerNet's 511 x 511
            return View.keep(height, width, scale, self.granularity, short)
        return View.fit(height, width, self.input.height, self.input.width, scale)

    def _run(
        self, windows: Sequence[tuple[View, Image]], read: Callable[[View, Maps, Maps | None], Result]
    ) -> list[Result]:
        """`read(view, maps, mirrored)` of each window, in their order; inputs of the same size go in batches."""
        same_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for place, (_, pixels) in enumerate(windows):
            same_size[pixels.shape].append(place)
        results: dict[int, Result] = {}
        step = self.test.batch_size
        for places in same_size.values():
            for batch in (places[start : start + step] for start in range(0, len(places), step)):
                for place, maps in zip(batch, self._forward([windows[i][1] for i in batch]), strict=True):
                    results[place] = read(windows[place][0], *maps)
        return [results[place] for place in range(len(windows))]

    def _forward(self, inputs: Sequence[Image]) -> list[tuple[Maps, Maps | None]]:
        """The maps (C, h, w) of inputs of one size and of their mirror images, if asked for, from one pass."""
        images = np.stack(inputs)
        if self.test.flip:
            images = np.concatenate([images, images[:, :, ::-1]])
        batch = self.network(images)
        maps = [{name: array[index] for name, array in batch.items()} for index in range(len(images))]
        mirrored = maps[len(inputs) :] if self.test.flip else [None] * len(inputs)
        return list(zip(maps[: len(inputs)], mirrored, strict=True))

    def _decode(self, view: View, maps: Maps, mirrored: Maps | None) -> Detections:
        found = self.codec.decode(maps, self.test.max_detections, mirrored)
        return found.to_image(view)

    def _select(self, image: Prepared, parts: list[Detections]) -> Detections:
        """The detections of all scales as one list, best first."""
        test, size = self.test, (image.height, image.width)
        found = list(zip(test.scales, parts, strict=True))
        return self.codec.select(found, size, test.soft_nms, test.max_detections)
