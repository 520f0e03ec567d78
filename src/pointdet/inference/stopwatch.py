# SPDX-License-Identifier: Apache-2.0
"""A stopwatch that sums the seconds of each stage, and a Predictor whose stages are timed."""

from __future__ import annotations

import copy
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pointdet.arrays import Maps, UInt8Array
from pointdet.codec import Codec
from pointdet.inference.predictor import Predictor
from pointdet.structures import AtScales, Detections

if TYPE_CHECKING:  # the module imports NNabla, which the demo imports only after its first checks
    from pointdet.model.network import Network

Item = TypeVar("Item")


class Stopwatch:
    """Sums the seconds of each stage: ``with stopwatch("read"): ...``.

    Several threads may share a stopwatch if each has its own stages.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}  # by stage, in the order in which the stages first ended

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[stage] = self.seconds.get(stage, 0.0) + elapsed

    def each(self, stage: str, items: Generator[Item, None, None]) -> Generator[Item, None, None]:
        """Yield the items; the time to produce them is added to the stage."""
        end = object()
        with closing(items):
            while True:
                with self(stage):
                    item = next(items, end)
                if item is end:
                    return
                yield cast(Item, item)


def timed(predictor: Predictor, stopwatch: Stopwatch) -> Predictor:
    """A copy of the predictor that times its stages: "network", "decode" and "NMS"."""
    copied = copy.copy(predictor)
    copied.network = _TimedNetwork(predictor.network, stopwatch)
    copied.codec = cast("Codec", _TimedCodec(predictor.codec, stopwatch))
    return copied


class _TimedNetwork:
    def __init__(self, network: Network, stopwatch: Stopwatch) -> None:
        self._network, self._stopwatch = network, stopwatch

    def __call__(self, images: UInt8Array) -> Maps:
        with self._stopwatch("network"):
            return self._network(images)


class _TimedCodec:
    """A codec whose `decode` and `select` are timed."""

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
