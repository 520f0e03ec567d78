# SPDX-License-Identifier: Apache-2.0
"""One rank of each host reads a dataset. The ranks are threads here; test_one_reader.py has processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pointdet.data import host_dataset
from pointdet.data.host_dataset import read_once_per_host
from pointdet.data.record_table import RecordTable
from pointdet.errors import PointDetError
from pointdet.structures import Annotation, Dataset, Record

PER_HOST = 2


class Exchange:
    """Threads exchange values."""

    def __init__(self, size: int) -> None:
        self.values: list[Any] = [None] * size
        self.barrier = threading.Barrier(size)

    def all(self, number: int, value: Any) -> list[Any]:
        self.values[number] = value
        self.barrier.wait(30)
        values = list(self.values)
        self.barrier.wait(30)
        return values


class ThreadRanks:
    def __init__(self, rank: int, world: Exchange, host: Exchange) -> None:
        self.rank, self.size, self.local_rank = rank, len(world.values), rank % PER_HOST
        self._world, self._host = world, host

    def gather(self, value: Any) -> list[Any] | None:
        values = self._world.all(self.rank, value)
        return None if self.rank else values

    def broadcast(self, value: Any) -> Any:
        return self._world.all(self.rank, value)[0]

    def on_host(self, value: Any) -> list[Any]:
        return self._host.all(self.local_rank, value)


def dataset(count: int = 6) -> Dataset:
    records = [Record(i, f"{i}.jpg", 40, 60, Annotation.of([[1, 2, 3 + i, 4]], [i])) for i in range(count)]
    return Dataset("some", records, tuple(map(str, range(count))), tuple(range(count)))


def on_hosts(hosts: int, read: Callable[[int], Dataset]) -> list[Any]:
    """What each rank gets, a Dataset or a PointDetError. `read` is called with the number of the rank."""
    world, here = Exchange(PER_HOST * hosts), [Exchange(PER_HOST) for _ in range(hosts)]
    results: list[Any] = [None] * PER_HOST * hosts

    def run(rank: int) -> None:
        ranks: Any = ThreadRanks(rank, world, here[rank // PER_HOST])
        try:
            results[rank] = read_once_per_host(lambda: read(rank), ranks)
        except PointDetError as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


def inode(some: Dataset) -> int:
    assert isinstance(some.records, RecordTable)
    return os.fstat(some.records.memory.descriptor).st_ino


def assert_right(found: list[Dataset]) -> None:
    for some in found:
        assert (some.name, some.class_names, some.category_ids) == ("some", tuple("012345"), tuple(range(6)))
        assert [record.image_path for record in some.records] == [f"{i}.jpg" for i in range(6)]
        np.testing.assert_array_equal(some.records[5].annotation.boxes, [[1, 2, 8, 4]])


def test_one_rank_of_each_host_reads_and_the_others_map_its_memory() -> None:
    readers = []

    def read(rank: int) -> Dataset:
        readers.append(rank)
        return dataset()

    found = on_hosts(2, read)
    assert sorted(readers) == [0, 2]
    assert_right(found)
    assert inode(found[0]) == inode(found[1]) != inode(found[2]) == inode(found[3])


@pytest.mark.parametrize("hidden", ["cannot be opened", "another process"])
def test_ranks_that_do_not_see_each_other_get_a_copy(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    def open_elsewhere(path: str, flags: int) -> int:
        if hidden == "cannot be opened":
            raise PermissionError
        return os.memfd_create("of another process")

    mapped = host_dataset._mapped

    def hidden_from_rank_1(*arguments: Any) -> RecordTable | None:
        with monkeypatch.context() as patch:
            patch.setattr("pointdet.data.host_dataset.os.open", open_elsewhere)
            return mapped(*arguments)

    monkeypatch.setattr(host_dataset, "_mapped", hidden_from_rank_1)
    found = on_hosts(1, lambda rank: dataset())
    assert_right(found)
    assert inode(found[0]) != inode(found[1])


def test_an_error_of_any_reader_is_that_of_all_ranks() -> None:
    def read(rank: int) -> Dataset:
        if rank == 2:
            raise PointDetError("b.json is not valid JSON; export it again")
        return dataset()

    found = on_hosts(2, read)
    assert all(isinstance(error, PointDetError) for error in found)
    (sentence,) = {str(error) for error in found}
    assert sentence.startswith("host ") and sentence.endswith(": b.json is not valid JSON; export it again")

    def fail(rank: int) -> Dataset:
        raise PointDetError(f"{'a' if rank == 0 else 'b'}.json is not valid JSON; export it again")

    assert {str(error) for error in on_hosts(2, fail)} == {"a.json is not valid JSON; export it again"}
