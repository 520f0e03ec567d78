# SPDX-License-Identifier: Apache-2.0
"""Generators with threads: `prefetch` makes items in advance, `parallel_map` applies a function to items."""

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
    """Follows the last item in the queue, with the exception that ended the items, if any."""

    error: BaseException | None = None


def prefetch(items: Generator[Item, None, None], count: int) -> Generator[Item, None, None]:
    """Yield `items` in order. A thread makes them and keeps up to `count` of them in a queue.

    An exception of `items` is raised after the items before it. A caller that stops early must close this
    generator: this ends the thread after the current item and closes `items`.
    """
    queue: Queue[Item | _End] = Queue(count)
    stopped = threading.Event()

    def produce() -> None:
        end = _End()
        try:
            with closing(items):
                for item in items:
                    queue.put(item)
                    if stopped.is_set():
                        return
        except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
            end = _End(error)
        queue.put(end)

    producer = threading.Thread(target=produce, name="prefetch", daemon=True)
    producer.start()
    try:
        while not isinstance(item := queue.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        try:  # empty the queue, so that a producer which waits in `put` sees `stopped`
            while True:
                queue.get_nowait()
        except Empty:
            producer.join()


def parallel_map(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, count: int
) -> Generator[Result, None, None]:
    """Yield `function(item)` of each item, in order, computed by a number of threads.

    Up to `count` more items than results are taken from `items`, in the caller's thread. An exception of
    `items` is raised after the results of the items before it. Closing this generator, or an exception of
    `function`, cancels the calls that have not started.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="worker")
    source, end = iter(items), None
    pending: deque[Future[Result]] = deque()
    try:
        while end is None:
            try:
                pending.append(pool.submit(function, next(source)))
            except Exception as error:  # noqa: BLE001  also StopIteration
                end = error
            while pending and (end is not None or len(pending) > count):
                yield pending.popleft().result()
        if not isinstance(end, StopIteration):
            raise end
    finally:
        pool.shutdown(cancel_futures=True)
