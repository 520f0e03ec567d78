# SPDX-License-Identifier: Apache-2.0
"""Records -> rows of a batch: read an image, augment it, encode its targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from pointdet.arrays import Batch, Int64Array, Maps, UInt8Array
from pointdet.codec import Encoder
from pointdet.data.augment import Augmenter
from pointdet.data.images import ImageFault, read_image
from pointdet.data.sampler import sample_rng
from pointdet.errors import PointDetError
from pointdet.structures import Annotation, Dataset, Sample


@dataclass(frozen=True)
class PackedDataset:
    """A dataset as a few flat arrays, which are pickled much faster than a hundred thousand records."""

    paths: list[str]
    sizes: Int64Array  # (N, 2) height, width
    starts: Int64Array  # (N + 1,): the objects of image i are rows starts[i] to starts[i + 1]
    objects: Annotation  # of all images

    @staticmethod
    def of(dataset: Dataset, drop_ignored: bool) -> PackedDataset:
        annotations = [record.annotation for record in dataset.records]
        if drop_ignored:
            annotations = [a[~a.ignore] if a.ignore.any() else a for a in annotations]
        return PackedDataset(
            paths=[record.image_path for record in dataset.records],
            sizes=np.array([(record.height, record.width) for record in dataset.records], np.int64),
            starts=np.cumsum([0, *map(len, annotations)]),
            objects=Annotation(
                boxes=np.concatenate([a.boxes for a in annotations]),
                labels=np.concatenate([a.labels for a in annotations]),
                ignore=np.concatenate([a.ignore for a in annotations]),
                areas=np.concatenate([a.areas for a in annotations]),
            ),
        )

    def __len__(self) -> int:
        return len(self.paths)

    def annotation(self, index: int) -> Annotation:
        """The objects of one image."""
        return self.objects[np.arange(self.starts[index], self.starts[index + 1])]


@dataclass
class BatchReport:
    """The problems found while rows of a batch were filled."""

    faults: dict[int, str] = field(default_factory=dict)  # image index -> why it cannot be used
    overflow: dict[int, int] = field(default_factory=dict)  # image index -> objects that exceeded max_objects


@dataclass
class BatchBuilder:
    """Fills rows of batches with samples. It remembers unusable images, so each is read only once."""

    dataset: PackedDataset
    augmenter: Augmenter
    codec: Encoder
    seed: int
    faults: dict[int, str] = field(default_factory=dict)  # image index -> why it cannot be used

    def fill(self, batch: Batch, rows: Sequence[int], epoch: int, indices: Sequence[int]) -> BatchReport:
        """Write the samples of the images `indices` to `rows` of a batch.

        Errors: PointDetError if no image of the dataset can be used.
        """
        report = BatchReport()
        for row, index in zip(rows, indices, strict=True):
            self._fill_row({name: array[row, ...] for name, array in batch.items()}, epoch, index, report)
        return report

    def _fill_row(self, row: Batch, epoch: int, index: int, report: BatchReport) -> None:
        used, sample = self._sample(epoch, index, cast(UInt8Array, row["image"]), report)
        row["colour"][...] = sample.colour
        targets = {name: row[name] for name in self.codec.target_shapes()}
        overflow = self.codec.encode(sample.annotation, cast(Maps, targets))
        if overflow:
            report.overflow[used] = overflow

    def _sample(self, epoch: int, index: int, out: UInt8Array, report: BatchReport) -> tuple[int, Sample]:
        """Index and sample of image `index` or, if it is unusable, of the next usable image."""
        for step in range(len(self.dataset)):
            candidate = (index + step) % len(self.dataset)
            if candidate in self.faults:
                continue
            height, width = self.dataset.sizes[candidate].tolist()
            rng = sample_rng(self.seed, epoch, index)
            view = self.augmenter.random_view(height, width, rng)
            reduction = view.reduction(height, width)
            try:
                image = read_image(self.dataset.paths[candidate], height, width, reduction)
            except ImageFault as fault:
                self.faults[candidate] = report.faults[candidate] = str(fault)
                continue
            annotation = self.dataset.annotation(candidate)
            return candidate, self.augmenter.sample(image, annotation, view, rng, out, reduction)
        raise PointDetError(f"none of the {len(self.dataset)} images can be used; {self.faults[index]}")
