# SPDX-License-Identifier: Apache-2.0
"""Records -> rows of a batch: how one sample is made, and the process that makes them."""

from __future__ import annotations

import ctypes
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Protocol, cast

import cv2
import numpy as np
import numpy.typing as npt

from pointdet.config.schema import Input
from pointdet.data.images import ImageFault, read_image
from pointdet.data.order import sample_rng
from pointdet.data.ring import Ring
from pointdet.errors import PointDetError
from pointdet.geometry import View
from pointdet.structures import Annotation, Array, Dataset, Maps, Sample

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h

Ints = npt.NDArray[np.int64]


class Transform(Protocol):
    """Image and boxes_image -> Sample; see augment."""

    @property
    def input(self) -> Input:
        """Height and width of the network's input."""

    @property
    def channels(self) -> int:
        """Rows of the colour matrix."""

    def draw_view(self, height: int, width: int, rng: np.random.Generator) -> View:
        """The window of one sample of an image of that size."""

    def sample(
        self,
        image: npt.NDArray[np.uint8],
        annotation: Annotation,
        view: View,
        rng: np.random.Generator,
        out: npt.NDArray[np.uint8] | None = None,
        reduction: int = 1,
    ) -> Sample:
        """What `view` shows of an image, smaller than its file by `reduction`, and of its boxes_image."""


class Encoder(Protocol):
    """What the loader needs of a detector's codec."""

    def target_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every target map of one image; all are float32."""

    def encode(self, annotation: Annotation, targets: Maps) -> int:
        """Fill `targets` from boxes_input; returns the number of objects that found no place."""


@dataclass(frozen=True)
class Table:
    """A dataset in a few flat arrays: a hundred thousand records reach a worker in a blink."""

    paths: list[str]
    sizes: Ints  # (N, 2)
    starts: Ints  # (N + 1,) of each image's objects
    objects: Annotation  # of all images

    @staticmethod
    def of(dataset: Dataset, drop_ignored: bool) -> Table:
        annotations = [record.annotation for record in dataset.records]
        if drop_ignored:
            annotations = [a[~a.ignore] if a.ignore.any() else a for a in annotations]
        return Table(
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
        return self.objects[np.arange(self.starts[index], self.starts[index + 1])]


@dataclass
class Notes:
    """What a worker has to say about the samples it made."""

    faults: dict[int, str] = field(default_factory=dict)  # image index -> why it cannot be used
    crowded: dict[int, int] = field(default_factory=dict)  # image index -> objects that found no place


@dataclass
class Maker:
    """Makes samples; remembers the unusable images, so that each is tried once only."""

    table: Table
    transform: Transform
    codec: Encoder
    seed: int
    faults: dict[int, str] = field(default_factory=dict)

    def fill(self, batch: dict[str, Array], rows: Sequence[int], epoch: int, indices: Sequence[int]) -> Notes:
        """Write the samples of the images `indices` into `rows` of a batch."""
        notes = Notes()
        for row, index in zip(rows, indices, strict=True):
            self._fill_row({name: array[row, ...] for name, array in batch.items()}, epoch, index, notes)
        return notes

    def _fill_row(self, row: dict[str, Array], epoch: int, index: int, notes: Notes) -> None:
        usable, sample = self._sample(epoch, index, cast(npt.NDArray[np.uint8], row["image"]), notes)
        row["colour"][...] = sample.colour
        targets = {name: row[name] for name in self.codec.target_shapes()}
        left_out = self.codec.encode(sample.annotation, cast(Maps, targets))
        if left_out:
            notes.crowded[usable] = left_out

    def _sample(self, epoch: int, index: int, out: npt.NDArray[np.uint8], notes: Notes) -> tuple[int, Sample]:
        """A sample of the image, or of the next one in the order of the dataset that can be used, and which it is."""
        for step in range(len(self.table)):
            candidate = (index + step) % len(self.table)
            if candidate in self.faults:
                continue
            height, width = self.table.sizes[candidate].tolist()
            rng = sample_rng(self.seed, epoch, index)
            view = self.transform.draw_view(height, width, rng)
            reduction = view.reduction(height, width)
            try:
                image = read_image(self.table.paths[candidate], height, width, reduction)
            except ImageFault as fault:
                self.faults[candidate] = notes.faults[candidate] = str(fault)
                continue
            annotation = self.table.annotation(candidate)
            return candidate, self.transform.sample(image, annotation, view, rng, out, reduction)
        raise PointDetError(f"none of the {len(self.table)} images can be used; {self.faults[index]}")


@dataclass(frozen=True)
class Task:
    """Samples to make; answered by Notes or by an exception."""

    slot: int
    rows: list[int]
    epoch: int
    indices: list[int]


def work(connection: Connection, ring: Ring, maker: Maker) -> None:
    """The life of a worker process: it ends when the loader closes its end of the connection, or dies."""
    cv2.setNumThreads(1)
    _keep_memory()
    try:
        while True:
            task: Task = connection.recv()
            connection.send((task.slot, _attempt(task, ring, maker)))
    except (EOFError, ConnectionError):
        return


def _keep_memory() -> None:
    """Tell the C library not to give the memory of an image back after each sample: a quarter of its time."""
    library = ctypes.CDLL(None)
    library.mallopt(M_TRIM_THRESHOLD, 256 << 20)
    library.mallopt(M_MMAP_THRESHOLD, 32 << 20)


def _attempt(task: Task, ring: Ring, maker: Maker) -> Notes | Exception:
    try:
        return maker.fill(ring.batches[task.slot], task.rows, task.epoch, task.indices)
    except PointDetError as error:
        return error
    except Exception:  # noqa: BLE001  whatever it is, the loader raises it where it can be seen
        return RuntimeError(f"in a loader process:\n{traceback.format_exc()}")
