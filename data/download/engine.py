"""Download workers: processes with many threads each, which get tasks from the scheduler.

The parent process runs the scheduler and has no threads. There are several processes for two
reasons: threads of one Python process slow each other down, and a process can be killed and
replaced when an attempt never ends (a header sent at one byte per minute, a resolver that does not
answer) or a decoder crashes.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Generic, TypeVar

from data.common.parallel import interrupts_held, start_worker
from data.common.sharding import Shard
from data.download.fetch import FetchError
from data.download.scheduler import Scheduler, Task

Body = TypeVar("Body")
Result = TypeVar("Result")

WINDOW = 20_000
"""Number of tasks that the scheduler holds: while one host's tasks wait, others can run."""

THREADS_PER_PROCESS = 32

_BATCH = 256
_TICK_SECONDS = 0.5
_JOIN_SECONDS = 5.0
_FETCHED = None  # a worker's message that a body is fetched but not yet stored


@dataclass(eq=False)
class _Attempt:
    task: Task
    since: float
    is_fetched: bool = False


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    connection: Connection
    threads: int
    attempts: dict[int, _Attempt] = field(default_factory=dict)  # by row
    fetching: int = 0

    @property
    def free_threads(self) -> int:
        # Bodies waiting to be stored are limited to the number of threads, too.
        return min(self.threads - self.fetching, 2 * self.threads - len(self.attempts))


class Engine(Generic[Body, Result]):
    """Fetches bodies in many threads and stores them in a few, in each of several processes.

    Args:
        fetch: gets a body; raises FetchError on failure. Any other exception ends the run. Like
            `store`, it is called in forked processes.
        store: turns a body into a result; raises FetchError on failure.
        scheduler: decides the order of tasks, and whether a failed one is retried.
        threads: number of bodies fetched at the same time, over all processes.
        processes: number of processes that share these threads.
        storing_threads: number of threads per process that store bodies.
        patience_seconds: an attempt that takes longer fails, and its process is killed; the other
            tasks of that process go to a new one.
    """

    def __init__(
        self,
        fetch: Callable[[Task], Body],
        store: Callable[[Task, Body], Result],
        scheduler: Scheduler,
        threads: int,
        processes: int = 1,
        storing_threads: int = 1,
        patience_seconds: float = 150.0,
    ) -> None:
        self._work = fetch, store, storing_threads
        self._scheduler = scheduler
        spans = [Shard(index, processes).span(threads) for index in range(processes)]
        self._threads = [len(span) for span in spans]
        self._patience_seconds = patience_seconds
        self._workers: list[_Worker] = []
        self._final: list[tuple[Task, Result | FetchError]] = []

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Result | FetchError]]:
        """Yields each task once with its final result, in order of completion.

        Reads `tasks` as needed, WINDOW tasks ahead.

        Raises:
            Exception: whatever `fetch` or `store` raised other than FetchError.
        """
        source = iter(tasks)
        try:
            self._workers = [self._start(count) for count in self._threads]
            while True:
                self._refill(source)
                self._dispatch()
                if self._is_over() and not self._final:
                    return
                if not self._final:
                    self._receive()
                    self._kill_overdue()
                done, self._final = self._final, []
                yield from done
        finally:
            for worker in self._workers:
                worker.connection.close()  # ends the worker
            for worker in self._workers:
                worker.process.join(_JOIN_SECONDS)

    def _is_over(self) -> bool:
        is_busy = any(worker.attempts for worker in self._workers)
        return not (is_busy or self._scheduler.waiting)

    def _refill(self, source: Iterator[Task]) -> None:
        """Gives the scheduler tasks until it holds WINDOW of them."""
        while self._scheduler.waiting <= WINDOW - _BATCH:
            batch = list(islice(source, _BATCH))
            for task in batch:
                self._scheduler.add(task)
            if len(batch) < _BATCH:
                return

    def _dispatch(self) -> None:
        """Gives tasks to free threads, always in the process that has the most of them."""
        while True:
            worker = max(self._workers, key=lambda worker: worker.free_threads)
            now = time.monotonic()
            task = self._scheduler.take(now) if worker.free_threads else None
            if task is None:
                return
            refusal = self._scheduler.given_up(task.host)
            if refusal is not None:
                self._scheduler.refused(task)
                self._final.append((task, FetchError(refusal, "gave up on the host")))
                continue
            worker.attempts[task.row] = _Attempt(task, now)
            worker.fetching += 1
            with suppress(OSError):  # `_receive` notices if the worker is dead
                worker.connection.send(task)

    def _receive(self) -> None:
        due = self._scheduler.next_time()
        seconds = _TICK_SECONDS if due is None else due - time.monotonic()
        waiting = {worker.connection: worker for worker in self._workers}
        for connection in wait(waiting, min(max(seconds, 0.0), _TICK_SECONDS)):
            worker = waiting[connection]
            try:
                row, result = connection.recv()
            except (EOFError, OSError):
                self._replace(worker)
                for attempt in worker.attempts.values():
                    self._end(attempt, FetchError("crashed", "a worker process died", True))
                continue
            attempt = worker.attempts[row]
            worker.fetching -= not attempt.is_fetched
            if result is _FETCHED:
                attempt.is_fetched, attempt.since = True, time.monotonic()
                self._scheduler.answered(attempt.task)
            else:
                del worker.attempts[row]
                self._end(attempt, result)

    def _end(self, attempt: _Attempt, result: Result | Exception) -> None:
        """Ends an attempt: the result is final, or the scheduler takes the task back to retry."""
        task, scheduler = attempt.task, self._scheduler
        if isinstance(result, FetchError):
            if result.is_transient:
                take_back = scheduler.retry if attempt.is_fetched else scheduler.failed
                if take_back(task, time.monotonic(), result):
                    return
            elif not attempt.is_fetched:
                scheduler.answered(task)
        elif isinstance(result, Exception):
            raise result
        self._final.append((task, result))

    def _kill_overdue(self) -> None:
        end = time.monotonic() - self._patience_seconds
        for worker in list(self._workers):
            attempts = worker.attempts.values()
            if all(attempt.since > end for attempt in attempts):
                continue
            worker.process.kill()
            self._replace(worker)
            for attempt in attempts:
                if attempt.since <= end:
                    # A fetched body may just have waited behind another one, so retry it.
                    error = FetchError("time_out", "not done, worker killed", attempt.is_fetched)
                    self._end(attempt, error)
                elif attempt.is_fetched:
                    self._scheduler.add(attempt.task)
                else:
                    self._scheduler.put_back(attempt.task)

    def _replace(self, worker: _Worker) -> None:
        worker.connection.close()
        worker.process.join(_JOIN_SECONDS)
        self._workers[self._workers.index(worker)] = self._start(worker.threads)

    def _start(self, threads: int) -> _Worker:
        with interrupts_held():
            return _Worker(*start_worker(_serve, threads, *self._work), threads)


def _serve(
    connection: Connection,
    threads: int,
    fetch: Callable[[Task], object],
    store: Callable[[Task, object], object],
    storing_threads: int,
) -> None:
    """Runs a worker process until the parent closes the connection or is killed."""
    # Inherited descriptors would keep the manifest locked and other workers' pipes open.
    for descriptor in set(map(int, os.listdir("/dev/fd"))) - {0, 1, 2, connection.fileno()}:
        with suppress(OSError):
            os.close(descriptor)
    tasks: SimpleQueue = SimpleQueue()
    bodies: SimpleQueue = SimpleQueue()
    sending = threading.Lock()

    def send(task: Task, result: object) -> None:
        try:
            with sending:
                connection.send((task.row, result))
        except OSError:
            os._exit(0)  # the parent is gone

    def fetch_for_ever() -> None:
        while True:
            task = tasks.get()
            body = _result(fetch, task)
            if isinstance(body, Exception):
                send(task, body)
            else:
                send(task, _FETCHED)  # frees the thread and the host
                bodies.put((task, body))

    def store_for_ever() -> None:
        while True:
            task, body = bodies.get()
            send(task, _result(store, task, body))

    for loop in [fetch_for_ever] * threads + [store_for_ever] * storing_threads:
        threading.Thread(target=loop, daemon=True).start()
    with suppress(EOFError, OSError):
        while True:
            tasks.put(connection.recv())
    os._exit(0)  # without waiting for the threads


def _result(work: Callable, *arguments: object) -> object:
    """What the work returns, or the exception that it raises."""
    try:
        return work(*arguments)
    except (FetchError, OSError) as error:
        return error
    except Exception:
        return RuntimeError(traceback.format_exc())
