# SPDX-License-Identifier: Apache-2.0
"""Prefetching and parallel mapping: order, bounds, exceptions, and no threads left after an early stop."""

import threading
import time
from contextlib import closing

import pytest

from pointdet.inference.pipeline import parallel_map, prefetch


@pytest.fixture(autouse=True)
def no_threads_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def counted(made, stop=1000):
    """Yield 0, 1, 2, ...; each number is appended to `made` when it is requested."""
    try:
        for number in range(stop):
            made.append(number)
            yield number
    finally:
        made.append("closed")


def doubled(numbers):
    with closing(numbers):
        for number in numbers:
            yield 2 * number


def eventually(condition):
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)
    return condition()


def test_items_come_in_order_from_another_thread():
    threads = set()

    def items():
        for number in range(100):
            threads.add(threading.get_ident())
            yield number

    assert list(prefetch(items(), 3)) == list(range(100))
    assert len(threads) == 1 and threading.get_ident() not in threads
    assert list(prefetch(counted([], 0), 1)) == []


def test_prefetch_is_bounded():
    made = []
    numbers = prefetch(counted(made), 3)
    assert next(numbers) == 0
    assert eventually(lambda: len(made) == 5)  # one taken, three in the queue, one waiting to enter it
    time.sleep(0.02)
    assert len(made) == 5
    numbers.close()
    assert made[-1] == "closed" and len(made) <= 7


def test_stages_run_in_parallel():
    """Each stage waits until the other has started with another item."""
    both = threading.Barrier(2, timeout=5)

    def first():
        for number in range(4):
            if number:
                both.wait()
            yield number

    for number in prefetch(first(), 2):
        if number < 3:
            both.wait()


def test_an_exception_passes_all_stages_in_order():
    made = []

    def broken():
        yield from counted(made, 2)
        raise ZeroDivisionError("in the first stage")

    numbers = parallel_map(lambda n: -n, prefetch(doubled(prefetch(broken(), 2)), 2), 2, 2)
    assert [next(numbers), next(numbers)] == [0, -2]
    with pytest.raises(ZeroDivisionError, match="first stage"):
        next(numbers)
    assert made == [0, 1, "closed"]


def test_closing_the_last_stage_closes_all_stages():
    made = []
    numbers = prefetch(doubled(prefetch(counted(made), 2)), 2)
    assert [next(numbers) for _ in range(3)] == [0, 2, 4]
    numbers.close()
    assert made[-1] == "closed"


def test_parallel_map_is_in_order_and_bounded():
    taken = []

    def work(number):
        time.sleep(0.003 * (number % 3))
        return number * number

    results = parallel_map(work, counted(taken, 20), 4, 5)
    assert next(results) == 0
    assert taken == [0, 1, 2, 3, 4, 5]
    assert list(results) == [n * n for n in range(1, 20)]


def test_an_exception_cancels_calls_that_have_not_started():
    started = []

    def work(number):
        started.append(number)
        if number == 1:
            raise ZeroDivisionError
        time.sleep(0.01)

    with pytest.raises(ZeroDivisionError):
        list(parallel_map(work, range(100), 1, 50))
    assert len(started) < 10
