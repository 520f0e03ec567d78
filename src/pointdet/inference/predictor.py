# SPDX-License-Identifier: Apache-2.0
"""Predictor: image -> view -> network -> maps -> detections. Testing, validation and the demo use it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from pointdet.arrays import Image, Maps
from pointdet.codec import Codec
from pointdet.config.schema import InputConfig, TestConfig
from pointdet.errors import PointDetError
from pointdet.geometry import View
from pointdet.structures import Detections

if TYPE_CHECKING:
    from pointdet.model.network import Network
    from pointdet.model.restore import Model

Result = TypeVar("Result")


@dataclass(frozen=True)
class Prepared:
    """The network's inputs for one image, one for each test scale."""

    height: int  # of the image, pixels
    width: int
    windows: list[tuple[View, Image]]  # the view and the warped image (H, W, 3)


class Predictor:
    """Detects objects in images, at one or several scales, with or without the flip test.

    Several threads may call one predictor or several. NNabla runs one forward pass of a detector at a time.
    """

    def __init__(
        self,
        network: Network,
        codec: Codec,
        input: InputConfig,
        test: TestConfig,
        class_names: Sequence[str],
        granularity: int = 32,
    ) -> None:
        """Create a predictor.

        Args:
            network: computes the maps of a batch of input images.
            codec: decodes the maps.
            granularity: with test.keep_resolution, height and width of the input are multiples of this many
                pixels.
        """
        self.network = network
        self.codec = codec
        self.input = input
        self.test = test
        self.class_names = tuple(class_names)
        self.granularity = granularity

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str = "cpu", engine: str | None = None) -> Predictor:
        """The predictor of a checkpoint folder or of an .onnx or .nnp file.

        Args:
            path: for example ``runs/mine/checkpoints/best``.
            device: "cpu" or "cudnn".
            engine: "nnabla" or "onnxruntime"; by default ONNX Runtime for .onnx files and NNabla for all
                others.
        Errors: PointDetError for a file that cannot be loaded, or a device or engine that does not work.
        """
        # These modules import NNabla, which the other users of this module do not need.
        from pointdet.inference import engine as engines
        from pointdet.model.restore import restore
        from pointdet.ops.cpu.process_state import building
        from pointdet.runtime import start

        chosen = engines.of(Path(path), engine)
        with building:  # NNabla's default context cannot be set while another thread builds a graph
            runtime = start(device)
        return cls.of(engines.on_engine(restore(Path(path), runtime), chosen))

    @classmethod
    def of(cls, model: Model) -> Predictor:
        """The predictor of a restored detector, with the settings of its configuration."""
        config = model.config
        return cls(
            *(model.network(), model.detector.codec, config.input, config.test, model.class_names),
            granularity=config.model.granularity,
        )

    def __call__(self, image: Image) -> Detections:
        """The detections of one BGR image: boxes_image, by descending score, at most test.max_detections.

        Boxes may extend beyond the image. Errors: PointDetError if `image` is not (H, W, 3) uint8.
        """
        return self.predict([image])[0]

    def predict(self, images: Sequence[Image]) -> list[Detections]:
        """The detections of several images, as `__call__`. Inputs of the same size share a forward pass."""
        return self.detect([self.prepare(image) for image in images])

    def prepare(self, image: Image) -> Prepared:
        """Pre-processing. It may run in other threads than the network. Errors: as `__call__`."""
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,):
            given = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise PointDetError(f"an image must be a BGR uint8 array (height, width, 3), not {given}")
        height, width, _ = image.shape
        views = [self._view(height, width, scale) for scale in self.test.scales]
        return Prepared(height, width, [(view, view.warp(image)) for view in views])

    def detect(self, images: Sequence[Prepared]) -> list[Detections]:
        """The network and post-processing: the detections of each prepared image, as `__call__`."""
        found = iter(self._run([window for image in images for window in image.windows], self._decode))
        return [self._select(image, [next(found) for _ in image.windows]) for image in images]

    def maps(self, image: Image) -> list[tuple[Image, Maps]]:
        """For visualisation: the input image (H, W, 3) and its maps (K, H/4, W/4) at each scale.

        With the flip test, the maps of the mirror image are not included.
        """
        windows = self.prepare(image).windows
        maps = self._run(
            windows, lambda _, maps, mirrored: {name: array.copy() for name, array in maps.items()}
        )
        return [(pixels, arrays) for (_, pixels), arrays in zip(windows, maps, strict=True)]

    def _view(self, height: int, width: int, scale: float) -> View:
        if self.test.keep_resolution:
            short = (-self.input.height % 4, -self.input.width % 4)  # (1, 1) for CornerNet's 511 x 511
            return View.keep(height, width, scale, self.granularity, short)
        return View.fit(height, width, self.input.height, self.input.width, scale)

    def _run(
        self, windows: Sequence[tuple[View, Image]], read: Callable[[View, Maps, Maps | None], Result]
    ) -> list[Result]:
        """`read(view, maps, mirrored)` of each window, in order. Inputs of the same size form batches."""
        same_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, (_, pixels) in enumerate(windows):
            same_size[pixels.shape].append(index)
        results: dict[int, Result] = {}
        step = self.test.batch_size
        for indices in same_size.values():
            for batch in (indices[start : start + step] for start in range(0, len(indices), step)):
                for index, maps in zip(batch, self._forward([windows[i][1] for i in batch]), strict=True):
                    results[index] = read(windows[index][0], *maps)
        return [results[index] for index in range(len(windows))]

    def _forward(self, inputs: Sequence[Image]) -> list[tuple[Maps, Maps | None]]:
        """The maps (K, H/4, W/4) of each input and, with the flip test, of its mirror image."""
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
        """The detections of one image from those of all scales, by descending score."""
        test, size = self.test, (image.height, image.width)
        found = list(zip(test.scales, parts, strict=True))
        return self.codec.select(found, size, test.soft_nms, test.max_detections)
