# SPDX-License-Identifier: Apache-2.0
"""Dataset -> batches of images and targets, made by worker processes in shared memory."""

from __future__ import annotations

import logging
from collections.abc import Generator
from types import TracebackType
from typing import Literal, final

import numpy as np

from pointdet.config.schema import Input
from pointdet.data.crew import Alone, Crew, Processes
from pointdet.data.order import Order
from pointdet.data.records import warn
from pointdet.data.ring import Ring
from pointdet.data.worker import Encoder, Maker, Notes, Table, Transform
from pointdet.errors import PointDetError
from pointdet.structures import Batch, Dataset

logger = logging.getLogger("pointdet")

AHEAD = 2  # batches that the workers prepare while the newest is in use
MAX_FAULTS = 20  # unusable images that are always borne; beyond that,
MAX_FAULT_SHARE = 0.1  # this share of the dataset


@final
class Loader:
    """Every image once per epoch, shuffled; the joined batches of all ranks are the same for any number of ranks,
    if batch_size * size * accumulate is, and for any number of workers.

    A batch is a dict of arrays, valid until `accumulate` further batches have been taken:
    "image" (B, H, W, 3) uint8 BGR; "colour" (B, C, 4) float32, see Sample; "weight" (B,) float32, 0 for the images
    that fill up the last update and must not count; and the codec's targets (B, ...) float32.

    An image that cannot be used is replaced by the next one of the dataset that can, with a warning.
    """

    def __init__(
        self,
        dataset: Dataset,
        transform: Transform,
        codec: Encoder,
        batch_size: int,
        seed: int,
        workers: int,
        rank: int = 0,
        size: int = 1,
        accumulate: int = 1,
        ignored_boxes: Literal["keep", "drop"] = "drop",
    ) -> None:
        """`batch_size` images of this rank and forward pass; `workers` processes of this rank, 0: none.

        Errors: PointDetError with fewer images than ranks, or not enough memory.
        """
        if len(dataset) < size:
            raise PointDetError(
                f"{dataset.name} has {len(dataset)} images for {size} ranks; start fewer ranks"
            )
        self._order = Order(len(dataset), batch_size, seed, rank, size, accumulate)
        table = Table.of(dataset, drop_ignored=ignored_boxes == "drop")
        self._paths = table.paths
        self._faults: set[int] = set()
        self._crowded: dict[int, int] = {}
        self._ahead = AHEAD if workers else 0
        self._ring = Ring(
            _layout(transform.input, transform.channels, codec, batch_size), accumulate + self._ahead
        )
        maker = Maker(table, transform, codec, seed)
        self._crew: Crew = Processes(self._ring, maker, workers) if workers else Alone(self._ring, maker)
        self._run = 0

    @property
    def iterations(self) -> int:
        """Batches of one epoch, a multiple of accumulate."""
        return self._order.iterations

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        """The batches of an epoch from iteration `start` on. Beginning another epoch ends this one."""
        self._run += 1
        run = self._run
        for slot in range(self._ring.slots):  # orders of an epoch that was left early
            self._note(self._crew.collect(slot))
        permutation = self._order.permutation(epoch)
        ordered = start
        for iteration in range(start, self.iterations):
            if run != self._run:
                raise RuntimeError("another epoch of this loader has begun")
            while ordered < min(iteration + self._ahead + 1, self.iterations):
                indices, weights = self._order.batch(permutation, ordered)
                slot = ordered % self._ring.slots
                self._ring.batches[slot]["weight"][...] = weights
                self._crew.submit(slot, epoch, indices.tolist())
                ordered += 1
            slot = iteration % self._ring.slots
            self._note(self._crew.collect(slot))
            yield self._ring.batches[slot]
        self._report_crowded(epoch)

    def close(self) -> None:
        """End the workers; arrays in use stay valid."""
        self._run += 1
        self._crew.close()
        self._ring.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _note(self, notes: list[Notes]) -> None:
        for note in notes:
            self._crowded.update(note.crowded)
            for index, fault in note.faults.items():
                if index not in self._faults:
                    self._faults.add(index)
                    logger.warning("%s; another image takes its place", fault)
        if len(self._faults) > max(MAX_FAULTS, MAX_FAULT_SHARE * len(self._paths)):
            raise PointDetError(
                f"{len(self._faults)} of {len(self._paths)} images cannot be used (see the warnings above); "
                "mend the dataset, main.py --check-data lists all of them"
            )

    def _report_crowded(self, epoch: int) -> None:
        what = f"objects of epoch {epoch} were left out: more in one image than detector.max_objects"
        warn(sum(self._crowded.values()), what, [self._paths[index] for index in self._crowded])
        self._crowded.clear()


def _layout(
    input: Input, channels: int, codec: Encoder, batch_size: int
) -> dict[str, tuple[tuple[int, ...], type]]:
    return {
        "image": ((batch_size, input.height, input.width, 3), np.uint8),
        "colour": ((batch_size, channels, 4), np.float32),
        "weight": ((batch_size,), np.float32),
        **{name: ((batch_size, *shape), np.float32) for name, shape in codec.target_shapes().items()},
    }
