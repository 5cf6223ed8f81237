"""A map over threads with results in order, for work that releases Python's lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, ahead: int
) -> Iterator[Result]:
    """`map(function, items)` by threads: results in order, at most `ahead` of them waiting.

    What `function` or `items` raise is raised after all results before it. Closing the iterator
    waits for the calls that run and drops those that have not begun.
    """
    waiting: deque[Future[Result]] = deque()
    iterator, failure = iter(items), None
    pool = ThreadPoolExecutor(threads)
    try:
        while failure is None:
            try:
                waiting.append(pool.submit(function, next(iterator)))
            except Exception as error:  # StopIteration: the end
                failure = error
            else:
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
        if not isinstance(failure, StopIteration):
            raise failure
    finally:
        pool.shutdown(cancel_futures=True)
