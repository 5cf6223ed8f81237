"""Maps over processes or threads that yield results in order and prefetch few items."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from data.common import storage
from data.common.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

_TASKS_AHEAD = 3  # per process: enough to keep it busy while we wait for a slow one
_END_SECONDS = 5.0  # for a worker to clean up after itself

Worker = tuple[BaseProcess, Connection]


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], processes: int
) -> Iterator[Result]:
    """`map(function, items)` over processes: results in order, a bounded number of them waiting.

    Args:
        function: picklable, as are the items and results. Its exceptions are raised here.
        processes: number of worker processes; 1: work in this process.

    Raises:
        UserError: a worker process was killed (out of memory, for instance); see `start_worker`.
    """
    if processes <= 1:
        yield from map(function, items)
        return
    source, sent, taken = iter(items), 0, 0
    results: dict[int, Result] = {}
    with _Pool(function, processes) as pool:
        while True:
            while pool.is_free and sent - taken < _TASKS_AHEAD * processes:
                if not (item := list(islice(source, 1))):
                    break
                pool.send(sent, item[0])
                sent += 1
            if taken == sent:
                return
            results |= pool.receive(0 if taken in results else None)
            if taken in results:
                yield results.pop(taken)
                taken += 1


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, ahead: int
) -> Iterator[Result]:
    """`map(function, items)` over threads: results in order, at most `ahead` of them waiting.

    For work that releases the GIL, such as Pillow's and TensorFlow's.

    Exceptions of `function` or `items` are raised after all results before them. Closing the
    iterator waits for running calls and drops those that have not begun.
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


class _Pool:
    """Worker processes, each working on one item at a time."""

    def __init__(self, function: Callable, processes: int) -> None:
        self._function, self._processes = function, processes
        self._workers: list[Worker] = []
        self._idle: list[Connection] = []
        self._busy: dict[Connection, int] = {}

    @property
    def is_free(self) -> bool:
        return bool(self._idle) or len(self._workers) < self._processes

    def send(self, number: int, item: object) -> None:
        if not self._idle:
            with interrupts_held():
                self._workers.append(start_worker(_work, self._function))
                self._idle.append(self._workers[-1][1])
        connection = self._idle.pop()
        self._busy[connection] = number
        with _death_reported():
            connection.send(item)

    def receive(self, timeout: float | None) -> dict[int, Any]:
        """Results by item number: at least one, unless the timeout (in s) expires."""
        results = {}
        for connection in wait(self._busy, timeout):
            with _death_reported():
                result, error, text = connection.recv()
            if error is not None:
                raise error from RuntimeError(text)
            results[self._busy.pop(connection)] = result
            self._idle.append(connection)
        return results

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        with interrupts_held():
            self._end()

    def _end(self) -> None:
        for process, _ in self._workers:
            process.terminate()
        for process, connection in self._workers:
            process.join(_END_SECONDS)
            process.kill()
            process.join()
            process.close()
            connection.close()
        # Here, because Ctrl-C during the destructor of a process would be lost.
        self._workers, self._idle, self._busy = [], [], {}


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Delays Ctrl-C until the block ends: during a fork it would be raised in both processes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if held:
            signal.raise_signal(signal.SIGINT)


def start_worker(target: Callable, *arguments: object) -> Worker:
    """A forked process that runs `target(connection, *arguments)`, and our end of the connection.

    Call it within `interrupts_held`; the process ignores Ctrl-C, which is for the parent.

    Raises:
        UserError: see `storage.check_fork`.
    """
    storage.check_fork()
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    begun = (ours, theirs, target, arguments)
    process = context.Process(target=_begin, args=begun, daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _begin(ours: Connection, theirs: Connection, target: Callable, arguments: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ours.close()  # so that it ends when the parent's is closed
    gc.freeze()  # closing the parent's connections to storage would wait for its threads
    target(theirs, *arguments)


def _work(connection: Connection, function: Callable) -> None:
    """Runs a worker process until SIGTERM, or until the parent has ended."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # An exception, so that unfinished files are deleted. Set after the thread has started, because
    # an exception while that waits for its lock would break the lock.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with suppress(EOFError, ConnectionError):
        while True:
            connection.send(_outcome(function, connection.recv()))


def _outcome(function: Callable, item: object) -> tuple[object, Exception | None, str]:
    """The function's result, or the exception that it raises, and its traceback."""
    try:
        return function(item), None, ""
    except Exception as error:
        return None, error, traceback.format_exc()


@contextmanager
def _death_reported() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise UserError("a worker process was killed; run again to continue") from error


def _end_with_parent() -> None:
    """Ends a worker whose parent was killed, and which would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
