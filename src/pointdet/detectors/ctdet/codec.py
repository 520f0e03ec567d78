# SPDX-License-Identifier: Apache-2.0
"""Boxes <-> maps of CenterNet: heatmap of centres, size of the box, offset of the centre in its cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pointdet.arrays import Int64Array, Maps
from pointdet.config.schema import CtDetConfig
from pointdet.detectors.common.heatmaps import draw_gaussian, gaussian_radius, peaks
from pointdet.structures import Annotation, AtScales, Detections
from pointdet.suppression import SoftNms


@dataclass(frozen=True)
class CtDetCodec:
    """`encode` converts boxes to targets; `decode`, its inverse, converts the network's maps to detections.

    Zhou et al., 2019, sections 3 and 4. Cell coordinates are input pixels / stride, without a shift by half a
    cell.
    """

    num_classes: int
    height: int  # of the network's input in training; decode takes maps of any size
    width: int
    max_objects: int
    min_overlap: float
    radius: Literal["published", "iou"]
    window: int  # side of the window in which a peak is the highest cell
    suppression: SoftNms
    size_per_class: bool = False
    stride: int = 4

    @staticmethod
    def of(detector: CtDetConfig, num_classes: int, height: int, width: int) -> CtDetCodec:
        """The codec of a configuration. height, width: of the network's input in training."""
        return CtDetCodec(
            num_classes,
            height,
            width,
            detector.max_objects,
            detector.min_overlap,
            detector.radius,
            detector.nms_kernel,
            SoftNms.of(detector),
            detector.size_per_class,
        )

    @property
    def heatmaps(self) -> tuple[str, ...]:
        """See `Encoder`."""
        return ("heatmap",)

    def target_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes, for one image, of the float32 arrays that `encode` fills.

        heatmap (C, h, w); present (C,), 1 for the classes that it shows. With one row per object: size (M, 2), width
        and height in cells; offset (M, 2), x and y of the centre relative to the top left of its cell; index (M,) of
        that cell, y * w + x; mask (M,), 0 in rows without an object; with `size_per_class` also label (M,).
        positives (1,), the number of cells of the heatmap that equal 1.
        """
        label: dict[str, tuple[int, ...]] = {"label": (self.max_objects,)} if self.size_per_class else {}
        return label | {
            "heatmap": (self.num_classes, -(-self.height // self.stride), -(-self.width // self.stride)),
            "present": (self.num_classes,),
            "size": (self.max_objects, 2),
            "offset": (self.max_objects, 2),
            "index": (self.max_objects,),
            "mask": (self.max_objects,),
            "positives": (1,),
        }

    def encode(self, annotation: Annotation, targets: Maps) -> int:
        """Fill `targets` from boxes_input. Returns the number of visible objects beyond `max_objects`.

        Boxes are clipped to the map. An object without area is then not visible and has no row. The first
        `max_objects` visible objects, in the annotation's order, are encoded.
        """
        for target in targets.values():
            target.fill(0)
        heatmap = targets["heatmap"]
        height, width = heatmap.shape[1:]
        corners_cells = (annotation.boxes / self.stride).reshape(-1, 2, 2)
        corners_cells = np.clip(corners_cells, 0, np.array([width - 1, height - 1], np.float32))
        sizes = corners_cells[:, 1] - corners_cells[:, 0]
        visible = np.flatnonzero((sizes > 0).all(axis=1))
        kept = visible[: self.max_objects]
        sizes, labels = sizes[kept], annotation.labels[kept]
        centres = corners_cells[kept].mean(axis=1)
        cells = centres.astype(np.int64)
        index = cells[:, 1] * width + cells[:, 0]

        whole = np.ceil(sizes)
        radii = gaussian_radius(whole[:, 1], whole[:, 0], self.min_overlap, self.radius).astype(np.int64)
        for label, (x, y), radius in zip(labels.tolist(), cells.tolist(), radii.tolist(), strict=True):
            draw_gaussian(heatmap[label], x, y, radius)
        targets["present"][labels] = 1
        count = len(kept)
        targets["size"][:count] = sizes
        targets["offset"][:count] = centres - cells
        targets["index"][:count] = index
        targets["mask"][:count] = 1
        if self.size_per_class:
            targets["label"][:count] = labels
        targets["positives"][0] = len(set(zip(labels.tolist(), index.tolist(), strict=True)))
        return len(visible) - count

    def decode(self, maps: Maps, count: int, mirrored: Maps | None = None) -> Detections:
        """At most `count` detections (boxes_input), best first, from the maps of one image.

        maps: heatmap (C, h, w), probabilities; size (2, h, w), width and height in cells, or (2 C, h, w) with
        `size_per_class`; offset (2, h, w), x and y in cells. The maps of the mirror image are averaged with them.
        """
        if mirrored is not None:
            maps = self.merge_mirrored(maps, mirrored)
        labels, ys, xs, scores = peaks(maps["heatmap"], count, self.window)
        centres = np.stack([xs, ys], axis=1) + maps["offset"][:, ys, xs].T
        halves = maps["size"][self._size_planes(labels), ys, xs].T / 2
        boxes_cells = np.concatenate([centres - halves, centres + halves], axis=1)
        return Detections((boxes_cells * self.stride).astype(np.float32), labels, scores)

    def maps_from_targets(self, targets: Maps) -> Maps:
        """See `Codec`. If several objects share a cell, the last one's size is kept."""
        heatmap, rows = targets["heatmap"], targets["mask"] > 0
        maps = {"heatmap": heatmap}
        ys, xs = np.unravel_index(targets["index"][rows].astype(np.int64), heatmap.shape[1:])
        labels = targets["label"][rows].astype(np.int64) if self.size_per_class else np.zeros_like(ys)
        planes = 2 * self.num_classes if self.size_per_class else 2
        maps["size"] = np.zeros((planes, *heatmap.shape[1:]), np.float32)
        maps["size"][self._size_planes(labels), ys, xs] = targets["size"][rows].T
        maps["offset"] = np.zeros((2, *heatmap.shape[1:]), np.float32)
        maps["offset"][:, ys, xs] = targets["offset"][rows].T
        return maps

    def _size_planes(self, labels: Int64Array) -> Int64Array:
        """The maps with the width and the height of objects with these labels (K,): (2, K), or (2, 1) for all."""
        return np.array([[0], [1]]) + (2 * labels if self.size_per_class else 0)

    def select(self, parts: AtScales, size: tuple[int, int], soft_nms: bool, count: int) -> Detections:
        """See `Codec`. Boxes are not clipped to the image."""
        found = Detections.join([part for _, part in parts])
        return self.suppression(found, count) if soft_nms or len(parts) > 1 else found.best(count)

    def merge_mirrored(self, maps: Maps, mirrored: Maps) -> Maps:
        """The mean of the maps of an image and of its mirror image.

        The offset is that of the image: mirroring changes the sign of its x.
        """
        return {
            "heatmap": (maps["heatmap"] + mirrored["heatmap"][..., ::-1]) / 2,
            "size": (maps["size"] + mirrored["size"][..., ::-1]) / 2,
            "offset": maps["offset"],
        }
