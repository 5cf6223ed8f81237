"""Worker processes, of many threads each, that work through tasks as the scheduler hands them out.

The parent has the scheduler, and no threads. Workers are there because threads of one Python
process stop one another; and because a worker can be killed: when an attempt never ends (a header
sent a byte a minute, a resolver that does not answer), and when a decoder crashes.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Generic, NamedTuple, TypeVar

from data.download_scheduler import Scheduler, Task
from data.fetching import FetchError

Result = TypeVar("Result")

WINDOW = 20_000
"""Tasks looked ahead: while one host makes its tasks wait, others are found to go on with."""

THREADS_A_PROCESS = 32

_BATCH = 256
_TICK_SECONDS = 0.5
_JOIN_SECONDS = 5.0


class Job(NamedTuple):
    """What a worker needs to know of a task."""

    row: int
    file: str
    url: str


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    connection: Connection
    threads: int
    in_flight: dict[int, tuple[Task, float]] = field(default_factory=dict)  # by row, since when

    @property
    def free_threads(self) -> int:
        return self.threads - len(self.in_flight)


class Engine(Generic[Result]):
    """Runs `work` on tasks in threads of several processes.

    Args:
        work: fetches and stores; raises FetchError where that fails. Any other exception ends the
            run. It is called in forked processes.
        scheduler: decides on the order, and on another attempt.
        threads: attempts made at the same time, over all processes.
        processes: over which the threads are spread.
        patience_seconds: an attempt that takes longer fails, and its process is killed. The other
            tasks of the process go to a new one.
    """

    def __init__(
        self,
        work: Callable[[Job], Result],
        scheduler: Scheduler,
        threads: int,
        processes: int,
        patience_seconds: float,
    ) -> None:
        self._work = work
        self._scheduler = scheduler
        self._shares = [threads // processes + (i < threads % processes) for i in range(processes)]
        self._patience_seconds = patience_seconds
        self._workers: list[_Worker] = []
        self._final: list[tuple[Task, Result | FetchError]] = []

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Result | FetchError]]:
        """Final results as they come, each task's once; `tasks` is read as far as is needed."""
        source = iter(tasks)
        try:
            self._workers = [self._start(share) for share in self._shares]
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
                worker.connection.close()  # which it ends at
            for worker in self._workers:
                worker.process.join(_JOIN_SECONDS)

    def _is_over(self) -> bool:
        is_busy = any(worker.in_flight for worker in self._workers)
        return not (is_busy or self._scheduler.waiting)

    def _refill(self, source: Iterator[Task]) -> None:
        """Keeps the window full."""
        while self._scheduler.waiting <= WINDOW - _BATCH:
            batch = list(islice(source, _BATCH))
            for task in batch:
                self._scheduler.add(task)
            if len(batch) < _BATCH:
                return

    def _dispatch(self) -> None:
        """Gives tasks to free threads, of the process that has most of them."""
        while True:
            worker = max(self._workers, key=lambda worker: worker.free_threads)
            now = time.monotonic()
            task = self._scheduler.take(now) if worker.free_threads else None
            if task is None:
                return
            refusal = self._scheduler.given_up(task.host)
            if refusal is not None:
                self._end(task, FetchError(refusal, "the host was given up"))
                continue
            worker.in_flight[task.row] = task, now
            with suppress(OSError):  # a dead worker is found out by `_receive`
                worker.connection.send(Job(task.row, task.file, task.url))

    def _receive(self) -> None:
        due = self._scheduler.next_time()
        seconds = _TICK_SECONDS if due is None else due - time.monotonic()
        waiting = {worker.connection: worker for worker in self._workers}
        for connection in wait(waiting, min(max(seconds, 0.0), _TICK_SECONDS)):
            worker = waiting[connection]
            results, is_alive = _read(connection)
            for row, result in results:
                self._end(worker.in_flight.pop(row)[0], result)
            if not is_alive:
                self._replace(worker)
                for task, _ in worker.in_flight.values():
                    self._end(task, FetchError("crashed", "a worker process died", True))

    def _end(self, task: Task, result: Result | Exception) -> None:
        """Ends an attempt: the task is done, or the scheduler has it again."""
        if isinstance(result, FetchError):
            if result.is_transient and self._scheduler.failed(task, time.monotonic(), result):
                return
        elif isinstance(result, Exception):
            raise result
        if not (isinstance(result, FetchError) and result.is_transient):
            self._scheduler.succeeded(task)
        self._final.append((task, result))

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for worker in list(self._workers):
            tasks = worker.in_flight.values()
            overdue = {task for task, since in tasks if now - since > self._patience_seconds}
            if not overdue:
                continue
            worker.process.kill()
            self._replace(worker)
            for task, _ in tasks:
                if task in overdue:
                    self._end(task, FetchError("time_out", "no end in sight"))
                else:
                    self._scheduler.put_back(task)

    def _replace(self, worker: _Worker) -> None:
        worker.connection.close()
        worker.process.join(_JOIN_SECONDS)
        self._workers[self._workers.index(worker)] = self._start(worker.threads)

    def _start(self, threads: int) -> _Worker:
        ours, theirs = get_context("fork").Pipe()
        arguments = self._work, theirs, threads
        process = get_context("fork").Process(target=_serve, args=arguments, daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours, threads)


def _read(connection: Connection) -> tuple[list[tuple[int, object]], bool]:
    """The (row, result) pairs that a worker has sent, and whether it lives."""
    results = []
    try:
        while connection.poll():
            results.append(connection.recv())
    except (EOFError, OSError):
        return results, False
    return results, True


def _serve(work: Callable[[Job], object], connection: Connection, threads: int) -> None:
    """The life of a worker process: until the parent, which may be killed, is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    # Inherited files would keep the manifest locked and the pipes of our siblings open.
    for descriptor in set(map(int, os.listdir("/dev/fd"))) - {0, 1, 2, connection.fileno()}:
        with suppress(OSError):
            os.close(descriptor)
    jobs: SimpleQueue[Job] = SimpleQueue()
    lock = threading.Lock()
    for _ in range(threads):
        arguments = work, jobs, connection, lock
        threading.Thread(target=_work_for_ever, args=arguments, daemon=True).start()
    with suppress(EOFError, OSError):
        while True:
            jobs.put(connection.recv())
    os._exit(0)  # in the middle of whatever the threads are doing


def _work_for_ever(
    work: Callable[[Job], object],
    jobs: SimpleQueue[Job],
    connection: Connection,
    lock: threading.Lock,
) -> None:
    while True:
        job = jobs.get()
        try:
            result = work(job)
        except (FetchError, OSError) as error:
            result = error
        except Exception:
            result = RuntimeError(traceback.format_exc())
        try:
            with lock:
                connection.send((job.row, result))
        except OSError:
            os._exit(0)  # the parent is gone
