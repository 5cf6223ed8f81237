"""Threads that work through tasks as the scheduler hands them out; results come as an iterator."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Generic, TypeVar

from data.download_scheduler import Scheduler, Task
from data.fetching import FetchError

Result = TypeVar("Result")

WINDOW = 20_000
"""Tasks looked ahead: while one host makes its tasks wait, others are found to go on with."""

_BATCH = 256
_TICK_SECONDS = 0.2
_JOIN_SECONDS = 5.0


class Engine(Generic[Result]):
    """Runs `work` on tasks in threads.

    Args:
        work: fetches and stores one task; raises FetchError where that fails. Any other exception
            ends the run.
        scheduler: decides on the order, and on another attempt.
        threads: number of attempts made at the same time.
        patience_seconds: an attempt that takes longer is given up, and its thread replaced. This is
            the last resort against what no socket time-out ends, such as a header sent a byte a
            minute or a resolver that does not answer.
    """

    def __init__(
        self,
        work: Callable[[Task], Result],
        scheduler: Scheduler,
        threads: int,
        patience_seconds: float,
    ) -> None:
        self._work = work
        self._scheduler = scheduler
        self._patience_seconds = patience_seconds
        self._results: queue.SimpleQueue = queue.SimpleQueue()
        self._changed = threading.Condition()  # guards all that follows, and the scheduler
        self._in_flight: dict[Task, float] = {}
        self._is_over = False
        self._threads = [self._new_thread() for _ in range(threads)]

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Result | FetchError]]:
        """Final results as they come, each task's once; `tasks` is read as far as is needed."""
        source = iter(tasks)
        try:
            while self._refill(source):
                yield from self._next_results()
                self._give_up_overdue()
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()
            end = time.monotonic() + _JOIN_SECONDS
            for thread in self._threads:
                thread.join(max(0.0, end - time.monotonic()))

    def _refill(self, source: Iterator[Task]) -> bool:
        """Keeps the window full; False when there is nothing left to wait for."""
        while self._scheduler.waiting + self._results.qsize() < WINDOW - _BATCH:
            batch = list(islice(source, _BATCH))
            with self._changed:
                for task in batch:
                    self._scheduler.add(task)
                self._changed.notify(len(batch))
            if len(batch) < _BATCH:
                break
        with self._changed:
            due = self._scheduler.next_time()
            if due is not None and due <= time.monotonic():
                self._changed.notify_all()
            is_busy = bool(self._in_flight or self._scheduler.waiting)
        return is_busy or not self._results.empty()

    def _next_results(self) -> Iterator[tuple[Task, Result | FetchError]]:
        try:
            found = self._results.get(timeout=_TICK_SECONDS)
            while True:
                task, result = found
                if isinstance(result, Exception) and not isinstance(result, FetchError):
                    raise result
                yield task, result
                found = self._results.get_nowait()
        except queue.Empty:
            return

    def _give_up_overdue(self) -> None:
        now = time.monotonic()
        with self._changed:
            overdue = [t for t, s in self._in_flight.items() if now - s > self._patience_seconds]
            for task in overdue:
                self._give_back(task, FetchError("time_out", "no end in sight"), now)
                self._threads.append(self._new_thread())

    def _new_thread(self) -> threading.Thread:
        thread = threading.Thread(target=self._loop, daemon=True)
        thread.start()
        return thread

    def _loop(self) -> None:
        while (task := self._take()) is not None:
            try:
                result = self._work(task)
            except Exception as error:
                result = error
            with self._changed:
                if task not in self._in_flight:  # given up meanwhile: another thread took our place
                    return
                self._give_back(task, result, time.monotonic())

    def _take(self) -> Task | None:
        with self._changed:
            while not self._is_over:
                now = time.monotonic()
                task = self._scheduler.take(now)
                if task is None:
                    self._changed.wait()
                    continue
                self._in_flight[task] = now
                refusal = self._scheduler.given_up(task.host)
                if refusal is None:
                    return task
                self._give_back(task, FetchError(refusal, "the host was given up"), now)
        return None

    def _give_back(self, task: Task, result: Result | Exception, now: float) -> None:
        """Ends an attempt; the lock is held."""
        del self._in_flight[task]
        if isinstance(result, FetchError) and result.is_transient:
            if self._scheduler.failed(task, now, result):
                return
        else:
            self._scheduler.succeeded(task)
        self._results.put((task, result))
