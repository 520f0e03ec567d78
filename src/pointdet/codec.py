# SPDX-License-Identifier: Apache-2.0
"""Protocols of a detector's codec: boxes -> training targets, and output maps -> detections. NumPy only.

Every detector has its own codec, `detectors/<name>/codec.py`. `data` and `detectors` share these protocols
and do not import each other.
"""

from __future__ import annotations

from typing import Protocol

from pointdet.arrays import Maps
from pointdet.structures import Annotation, AtScales, Detections


class Encoder(Protocol):
    """Boxes -> training targets. The loader uses it."""

    @property
    def heatmaps(self) -> tuple[str, ...]:
        """Names of the targets that are heatmaps (C, h, w), with one plane for each class.

        The target "present" (C,) is 1 for the classes with an object in the image, otherwise 0. In every
        heatmap the planes of all other classes are 0.
        """

    def target_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the targets of one image, by name. All targets are float32."""

    def encode(self, annotation: Annotation, targets: Maps) -> int:
        """Fill `targets` from boxes_input. Returns the number of visible objects beyond `max_objects`."""


class Codec(Encoder, Protocol):
    """Boxes -> training targets, and the network's output maps -> detections."""

    def decode(self, maps: Maps, count: int, mirrored: Maps | None = None) -> Detections:
        """Detections (boxes_input) from the output maps of one image, and of its mirror image if given.

        At least the `count` best are returned, if there are as many.
        """

    def maps_from_targets(self, targets: Maps) -> Maps:
        """Output maps of a network that predicts the `targets` of one image exactly, for `decode`."""

    def select(self, parts: AtScales, size: tuple[int, int], soft_nms: bool, count: int) -> Detections:
        """The `count` best detections (boxes_image) of one image, best first, from `decode` at each scale.

        size: height and width of the image. With several scales, soft-NMS is always applied, since they
        detect the same object several times. With one scale it is applied if `soft_nms`.
        """
