# SPDX-License-Identifier: Apache-2.0
"""Dataset -> batches of images and targets. Worker processes fill them in shared memory."""

from __future__ import annotations

import logging
from collections.abc import Generator
from collections.abc import Set as AbstractSet
from types import TracebackType
from typing import Literal, final

import numpy as np

from pointdet.arrays import Batch
from pointdet.codec import Encoder
from pointdet.config.schema import InputConfig
from pointdet.data.augment import Augmenter
from pointdet.data.batch_builder import BatchBuilder, BatchReport
from pointdet.data.record_table import RecordTable
from pointdet.data.ring_buffer import RingBuffer
from pointdet.data.sampler import Sampler
from pointdet.data.worker_pool import MultiProcessPool, SingleProcessPool, WorkerPool
from pointdet.errors import PointDetError
from pointdet.structures import Dataset

logger = logging.getLogger("pointdet")

PREFETCH = 2  # batches that the workers prepare while the current one is in use
# Training stops when more images than both limits are unusable.
MAX_FAULTS = 20
MAX_FAULT_SHARE = 0.1  # of the dataset


@final
class Loader:
    """Iterates over every image once per epoch, in random order.

    The joined batches of all ranks depend neither on the number of workers nor on the number of ranks, as
    long as batch_size * size * accumulate is the same.

    A batch is a dict of arrays, valid until `accumulate` further batches have been taken: "image" (B, H, W,
    3) uint8 BGR; "colour" (B, C, 4) float32, see Sample; "weight" (B,) float32, 0 for the images that pad the
    last update and are not trained; and the codec's targets (B, ...) float32.

    An unusable image is replaced by the next usable one of the dataset, with a warning.
    """

    def __init__(
        self,
        dataset: Dataset,
        augmenter: Augmenter,
        codec: Encoder,
        batch_size: int,
        seed: int,
        workers: int,
        rank: int = 0,
        size: int = 1,
        accumulate: int = 1,
        ignored_boxes: Literal["keep", "drop"] = "drop",
    ) -> None:
        """`batch_size`: images of this rank per forward pass. `workers`: processes of this rank; 0: single
        process.

        Errors: PointDetError if there are fewer images than ranks, or not enough memory.
        """
        if len(dataset) < size:
            raise PointDetError(
                f"{dataset.name} has {len(dataset)} images for {size} ranks; start fewer ranks"
            )
        self._sampler = Sampler(len(dataset), batch_size, seed, rank, size, accumulate)
        self._records = RecordTable.of(dataset.records)
        self._faults: set[int] = set()
        self._overflow: dict[int, int] = {}
        self._prefetch = PREFETCH if workers else 0
        self._buffer = RingBuffer(
            _layout(augmenter.input, augmenter.channels, codec, batch_size), accumulate + self._prefetch
        )
        builder = BatchBuilder(self._records, augmenter, codec, seed, ignored_boxes == "drop")
        self._pool: WorkerPool = (
            MultiProcessPool(self._buffer, builder, workers)
            if workers
            else SingleProcessPool(self._buffer, builder)
        )
        self._run = 0  # which call of `epoch` is the current one

    @property
    def iterations(self) -> int:
        """Batches of one epoch, a multiple of accumulate."""
        return self._sampler.iterations

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        """The batches of an epoch, from iteration `start` on. Starting another epoch ends this one."""
        self._run += 1
        run = self._run
        for slot in range(self._buffer.slots):  # finish the requests of an epoch that was left early
            self._handle(self._pool.collect(slot))
        permutation = self._sampler.permutation(epoch)
        submitted = start
        for iteration in range(start, self.iterations):
            if run != self._run:
                raise RuntimeError("another epoch of this loader has started")
            while submitted < min(iteration + self._prefetch + 1, self.iterations):
                indices, weights = self._sampler.batch(permutation, submitted)
                slot = submitted % self._buffer.slots
                self._buffer.batches[slot]["weight"][...] = weights
                self._pool.submit(slot, epoch, indices.tolist())
                submitted += 1
            slot = iteration % self._buffer.slots
            self._handle(self._pool.collect(slot))
            yield self._buffer.batches[slot]

    @property
    def faults(self) -> frozenset[int]:
        """The unusable images that this rank has found, by their index in the dataset."""
        return frozenset(self._faults)

    def check_faults(self, faults: AbstractSet[int]) -> None:
        """Check the unusable images of all ranks. Errors: PointDetError if they are too many."""
        if len(faults) > max(MAX_FAULTS, MAX_FAULT_SHARE * len(self._records)):
            raise PointDetError(
                f"{len(faults)} of {len(self._records)} images cannot be used (see the warnings above); "
                "correct the dataset; main.py --check-data lists all of them"
            )

    def take_overflow(self) -> dict[str, int]:
        """Images of this rank with more objects than detector.max_objects since the last call: path, and the
        number of objects that were left out."""
        taken = {self._records.path(index): count for index, count in self._overflow.items()}
        self._overflow.clear()
        return taken

    def close(self) -> None:
        """End the workers. Arrays that are still in use stay valid."""
        self._run += 1
        self._pool.close()
        self._buffer.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _handle(self, reports: list[BatchReport]) -> None:
        """Warn of unusable images and record overflows. Errors: PointDetError: too many unusable images."""
        for report in reports:
            self._overflow.update(report.overflow)
            for index, fault in report.faults.items():
                if index not in self._faults:
                    self._faults.add(index)
                    logger.warning("%s; another image replaces it", fault)
        self.check_faults(self._faults)


def _layout(
    input: InputConfig, channels: int, codec: Encoder, batch_size: int
) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shapes and dtypes of the arrays of a batch."""
    return {
        "image": ((batch_size, input.height, input.width, 3), np.uint8),
        "colour": ((batch_size, channels, 4), np.float32),
        "weight": ((batch_size,), np.float32),
        **{name: ((batch_size, *shape), np.float32) for name, shape in codec.target_shapes().items()},
    }
