# SPDX-License-Identifier: Apache-2.0
"""One training step of several ranks: gradient buckets that are summed during or after the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Gradients:
    """The gradients that one function of the backward pass completes."""

    values: int  # numbers, not bytes
    ready: float  # the share of the backward pass that is over by then, 0 to 1


@dataclass(frozen=True)
class StepTime:
    """Seconds of the parts of a step on one rank, without communication."""

    copy: float  # images and targets to the device
    forward: float
    backward: float
    update: float
    source: str
    measured: bool = False

    @property
    def total(self) -> float:
        return self.copy + self.forward + self.backward + self.update


@dataclass(frozen=True)
class Bucket:
    """One message. Times are seconds since the start of the backward pass."""

    size: int  # bytes
    ready: float
    start: float
    end: float


def fill(gradients: Sequence[Gradients], bytes_per_value: int, limit: float) -> list[tuple[int, float]]:
    """(bytes, share of backward) of the buckets: a bucket is closed when it has at least `limit` bytes."""
    buckets = []
    size = 0
    for group in gradients:
        size += group.values * bytes_per_value
        if size >= limit:
            buckets.append((size, group.ready))
            size = 0
    if size:
        buckets.append((size, gradients[-1].ready))
    return buckets


def queue(
    filled: Sequence[tuple[int, float]], backward: float, all_reduce: Callable[[float], float], overlap: bool
) -> list[Bucket]:
    """Send the buckets in their order. A bucket starts when it is full and the link is free.

    backward: seconds of the backward pass. all_reduce: bytes -> seconds. Without overlap the first bucket
    starts at the end of the backward pass.
    """
    buckets = []
    free = 0.0 if overlap else backward
    for size, share in filled:
        ready = share * backward
        start = max(ready, free)
        free = start + all_reduce(size)
        buckets.append(Bucket(size, ready, start, free))
    return buckets


def step_seconds(step: StepTime, buckets: Sequence[Bucket]) -> float:
    """Seconds of a step. The update starts when the backward pass and the last bucket are done."""
    communicated = max((bucket.end for bucket in buckets), default=0.0)
    return step.copy + step.forward + max(step.backward, communicated) + step.update
