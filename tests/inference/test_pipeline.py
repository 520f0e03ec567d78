# SPDX-License-Identifier: Apache-2.0
"""Threads that work ahead: order, bounds, faults, and nothing left behind by whoever stops early."""

import threading
import time
from contextlib import closing

import pytest

from pointdet.inference.pipeline import ahead, mapped


@pytest.fixture(autouse=True)
def no_threads_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def counted(made, stop=1000):
    """0, 1, 2 ...; `made` gets every number when it is asked for."""
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

    assert list(ahead(items(), 3)) == list(range(100))
    assert len(threads) == 1 and threading.get_ident() not in threads
    assert list(ahead(counted([], 0), 1)) == []


def test_no_more_is_made_ahead_than_asked_for():
    made = []
    numbers = ahead(counted(made), 3)
    assert next(numbers) == 0
    assert eventually(lambda: len(made) == 5)  # one taken, three that wait, one that waits for room
    time.sleep(0.02)
    assert len(made) == 5
    numbers.close()
    assert made[-1] == "closed" and len(made) <= 7


def test_stages_work_at_the_same_time():
    """Each waits for the other to have begun with another item."""
    both = threading.Barrier(2, timeout=5)

    def first():
        for number in range(4):
            if number:
                both.wait()
            yield number

    for number in ahead(first(), 2):
        if number < 3:
            both.wait()


def test_a_fault_comes_in_its_place_through_all_stages():
    made = []

    def broken():
        yield from counted(made, 2)
        raise ZeroDivisionError("of the first stage")

    numbers = mapped(lambda n: -n, ahead(doubled(ahead(broken(), 2)), 2), 2, 2)
    assert [next(numbers), next(numbers)] == [0, -2]
    with pytest.raises(ZeroDivisionError, match="first stage"):
        next(numbers)
    assert made == [0, 1, "closed"]


def test_closing_the_last_stage_ends_all_before_it():
    made = []
    numbers = ahead(doubled(ahead(counted(made), 2)), 2)
    assert [next(numbers) for _ in range(3)] == [0, 2, 4]
    numbers.close()
    assert made[-1] == "closed"


def test_mapped_work_is_in_order_and_bounded():
    taken, begun = [], []

    def work(number):
        begun.append(number)
        time.sleep(0.003 * (number % 3))
        return number * number

    results = mapped(work, counted(taken, 20), 4, 5)
    assert next(results) == 0
    assert taken == [0, 1, 2, 3, 4, 5]
    assert list(results) == [n * n for n in range(1, 20)]


def test_mapped_work_that_nobody_began_is_left_out():
    begun = []

    def work(number):
        begun.append(number)
        if number == 1:
            raise ZeroDivisionError
        time.sleep(0.01)

    with pytest.raises(ZeroDivisionError):
        list(mapped(work, range(100), 1, 50))
    assert len(begun) < 10
