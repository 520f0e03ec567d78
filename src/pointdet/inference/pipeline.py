# SPDX-License-Identifier: Apache-2.0
"""Work done at the same time: items made ahead by a thread, and work on items done in order by several."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from queue import Empty, Queue
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class _End:
    """What comes after the last item; with the fault, where one ended them."""

    fault: BaseException | None = None


def ahead(items: Generator[Item, None, None], count: int) -> Generator[Item, None, None]:
    """`items` in order, made by a thread of their own, up to `count` ahead of who takes them.

    What is raised while they are made is raised here, in its place among them. Whoever stops before the end closes
    this generator; that ends the thread after the item it is at, and closes `items`.
    """
    queue: Queue[Item | _End] = Queue(count)
    stopped = threading.Event()

    def make() -> None:
        end = _End()
        try:
            with closing(items):
                for item in items:
                    queue.put(item)
                    if stopped.is_set():
                        return
        except BaseException as fault:  # noqa: BLE001  it is not lost: the taker raises it
            end = _End(fault)
        queue.put(end)

    maker = threading.Thread(target=make, name="ahead", daemon=True)
    maker.start()
    try:
        while not isinstance(item := queue.get(), _End):
            yield item
        if item.fault is not None:
            raise item.fault
    finally:
        stopped.set()
        try:  # a maker that waits for room finds it, and then that it is to stop
            while True:
                queue.get_nowait()
        except Empty:
            maker.join()


def mapped(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int, count: int
) -> Generator[Result, None, None]:
    """`work` of each item, in order, done by `threads` while the next `count` items are taken from `items`.

    The items are made by the caller's own thread; what is raised there comes after the results of those before it.
    Closing, or an error in `work`, leaves out the work that nobody has begun.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="worker")
    source, end = iter(items), None
    pending: deque[Future[Result]] = deque()
    try:
        while end is None:
            try:
                pending.append(pool.submit(work, next(source)))
            except Exception as fault:  # noqa: BLE001  StopIteration too
                end = fault
            while pending and (end is not None or len(pending) > count):
                yield pending.popleft().result()
        if not isinstance(end, StopIteration):
            raise end
    finally:
        pool.shutdown(cancel_futures=True)
