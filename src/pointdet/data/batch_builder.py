# SPDX-License-Identifier: Apache-2.0
"""Records -> rows of a batch: read an image, augment it, encode its targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from pointdet.arrays import Batch, Maps, UInt8Array
from pointdet.codec import Encoder
from pointdet.data.augment import Augmenter
from pointdet.data.images import ImageFault, read_image
from pointdet.data.record_table import RecordTable
from pointdet.data.sampler import sample_rng
from pointdet.errors import PointDetError
from pointdet.structures import Sample


@dataclass
class BatchReport:
    """The problems found while rows of a batch were filled."""

    faults: dict[int, str] = field(default_factory=dict)  # image index -> why it cannot be used
    overflow: dict[int, int] = field(default_factory=dict)  # image index -> objects that exceeded max_objects


@dataclass
class BatchBuilder:
    """Fills rows of batches with samples. It remembers unusable images, so each is read only once."""

    records: RecordTable
    augmenter: Augmenter
    codec: Encoder
    seed: int
    drop_ignored: bool  # do not train objects that are ignored in AP
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
        for step in range(len(self.records)):
            candidate = (index + step) % len(self.records)
            if candidate in self.faults:
                continue
            record = self.records[candidate]
            height, width = record.height, record.width
            rng = sample_rng(self.seed, epoch, index)
            view = self.augmenter.random_view(height, width, rng)
            reduction = view.reduction(height, width)
            try:
                image = read_image(record.image_path, height, width, reduction)
            except ImageFault as fault:
                self.faults[candidate] = report.faults[candidate] = str(fault)
                continue
            annotation = record.annotation
            if self.drop_ignored and annotation.ignore.any():
                annotation = annotation[~annotation.ignore]
            return candidate, self.augmenter.sample(image, annotation, view, rng, out, reduction)
        raise PointDetError(f"none of the {len(self.records)} images can be used; {self.faults[index]}")
