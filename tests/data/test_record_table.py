# SPDX-License-Identifier: Apache-2.0
"""The table of records: the same records again, in memory that processes share."""

from __future__ import annotations

import io
import multiprocessing
import os
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest

from pointdet.data.record_table import RecordTable
from pointdet.errors import PointDetError
from pointdet.structures import Annotation, Record


def make(count: int = 5) -> list[Record]:
    random = np.random.default_rng(1)
    records = []
    for index in range(count):
        objects = index % 3
        annotation = Annotation(
            boxes=random.uniform(0, 99, (objects, 4)).astype(np.float32),
            labels=random.integers(9, size=objects),
            ignore=random.random(objects) < 0.5,
            areas=random.random(objects).astype(np.float32),
        )
        records.append(
            Record(7 * index - 2**62, f"folder/caf\xe9 \udce9 {index}.jpg", 40 + index, 60, annotation)
        )
    return records


def assert_same(some: Record, other: Record) -> None:
    for name in ("image_id", "image_path", "height", "width"):
        assert getattr(some, name) == getattr(other, name)
        assert type(getattr(some, name)) is type(getattr(other, name))
    for name in ("boxes", "labels", "ignore", "areas"):
        one, two = getattr(some.annotation, name), getattr(other.annotation, name)
        np.testing.assert_array_equal(one, two)
        assert (one.dtype, one.shape) == (two.dtype, two.shape)


@pytest.mark.parametrize("count", [1, 5])
def test_the_records_are_those_that_were_given(count: int) -> None:
    records = make(count)
    table = RecordTable.of(records)
    assert len(table) == count
    for some, other in zip(table, records, strict=True):
        assert_same(some, other)
    assert_same(table[-1], records[-1])
    assert [record.image_id for record in table[1::2]] == [record.image_id for record in records[1::2]]
    with pytest.raises(IndexError):
        table[count]
    assert RecordTable.of(table) is table


def test_the_arrays_cannot_be_written_to() -> None:
    objects = RecordTable.of(make()).annotation(2)
    with pytest.raises(ValueError, match="read-only"):
        objects.boxes[0, 0] = 1


def test_a_table_that_does_not_fit_into_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pointdet.available_memory.available_bytes", lambda: 1000)
    with pytest.raises(PointDetError, match="the table of the dataset's images and objects needs 1 MiB, but"):
        RecordTable.of(make())


def _child(connection: Connection, table: RecordTable) -> None:
    descriptor = os.fstat(table.memory.descriptor)
    connection.send((descriptor.st_dev, descriptor.st_ino, list(table)))


def test_a_child_process_maps_the_same_memory() -> None:
    table = RecordTable.of(make())
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=_child, args=(theirs, table))
    child.start()
    device, inode, records = ours.recv()
    child.join()
    own = os.fstat(table.memory.descriptor)
    assert (device, inode) == (own.st_dev, own.st_ino)
    for some, other in zip(records, make(), strict=True):
        assert_same(some, other)


def test_what_is_sent_to_a_child_process_does_not_grow_with_the_dataset() -> None:
    """A pipe holds 64 KiB: with more, the start of a child that dies at once would wait for ever."""
    sent = io.BytesIO()
    ForkingPickler(sent).dump(RecordTable.of(make(20_000)))
    assert len(sent.getvalue()) < 2000


def test_dropped_tables_release_their_memory() -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    RecordTable.of(make())
    before = descriptors()
    for _ in range(5):
        RecordTable.of(make())
    kept = RecordTable.of(make()).annotation(1)
    assert descriptors() <= before + 1  # the mapping of the array that is in use
    assert_same(Record(0, "", 1, 1, kept), Record(0, "", 1, 1, make()[1].annotation))
