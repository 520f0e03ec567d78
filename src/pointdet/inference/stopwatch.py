# SPDX-License-Identifier: Apache-2.0
"""Where the time of detecting goes: seconds by stage, also of the stages within a Predictor."""

from __future__ import annotations

import copy
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from pointdet.inference.predictor import Network, Predictor
from pointdet.structures import AtScales, Detections, Maps

if TYPE_CHECKING:
    from pointdet.detectors.base import Codec

Item = TypeVar("Item")


class Stopwatch:
    """Seconds spent in each stage: ``with stopwatch("read"): ...``. Threads may share it, each with its own stages."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}  # by stage, in the order in which they first came to an end

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent

    def each(self, stage: str, items: Generator[Item, None, None]) -> Generator[Item, None, None]:
        """The items; what it takes to make them is the time of that stage."""
        end = object()
        with closing(items):
            while True:
                with self(stage):
                    item = next(items, end)
                if item is end:
                    return
                yield cast(Item, item)


def timed(predictor: Predictor, stopwatch: Stopwatch) -> Predictor:
    """The same predictor, on whatever engine; its network, decoding and NMS (with the choice of the best) are timed."""
    watched = copy.copy(predictor)
    watched.network = _TimedNetwork(predictor.network, stopwatch)
    watched.codec = cast("Codec", _TimedCodec(predictor.codec, stopwatch))
    return watched


class _TimedNetwork:
    def __init__(self, network: Network, stopwatch: Stopwatch) -> None:
        self._network, self._stopwatch = network, stopwatch

    def __call__(self, images: npt.NDArray[np.uint8]) -> Maps:
        with self._stopwatch("network"):
            return self._network(images)


class _TimedCodec:
    """Everything of a codec; the two steps that detecting takes are timed."""

    def __init__(self, codec: Codec, stopwatch: Stopwatch) -> None:
        self._codec, self._stopwatch = codec, stopwatch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codec, name)

    def decode(self, maps: Maps, count: int, mirrored: Maps | None = None) -> Detections:
        with self._stopwatch("decode"):
            return self._codec.decode(maps, count, mirrored)

    def select(self, parts: AtScales, size: tuple[int, int], soft_nms: bool, count: int) -> Detections:
        with self._stopwatch("NMS"):
            return self._codec.select(parts, size, soft_nms, count)
