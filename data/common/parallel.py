"""Work shared among processes and MPI ranks: the same result for any number of them.

A bounded, ordered map over processes; and which part of the work is ours.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_RANK_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS")
_TASKS_AHEAD = 3  # a process: enough to keep it busy while a slow neighbour is waited for


class ParallelError(ValueError):
    """Work that cannot be shared as asked, or a worker process that died."""


class Part(NamedTuple):
    """Part `index` of `count`; `world` is MPI's communicator when the parts are its ranks."""

    index: int = 0
    count: int = 1
    world: Any = None

    @property
    def collects(self) -> bool:
        """Whether it is ours to put the results of all parts together after `wait`."""
        return self.count == 1 or (self.world is not None and self.index == 0)

    def wait(self) -> None:
        """Waits until all ranks are here."""
        if self.world is not None:
            self.world.Barrier()

    def abort(self) -> None:
        """Ends the other ranks, which would wait for this one for ever."""
        if self.world is not None:
            self.world.Abort(1)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], processes: int
) -> Iterator[Result]:
    """`map(function, items)` over processes: results in order, a bounded number of them waiting.

    Args:
        function: picklable, as are the items and results. Its exceptions are raised here.
        processes: 1 works in this process.

    Raises:
        ParallelError: a worker process was killed (out of memory, for instance).
    """
    if processes <= 1:
        yield from map(function, items)
        return
    pending: deque[Future[Result]] = deque()
    pool = ProcessPoolExecutor(processes, initializer=_end_with_parent)
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= _TASKS_AHEAD * processes:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise ParallelError("a worker process was killed; run again to go on") from error
    finally:
        pool.shutdown(cancel_futures=True)


def our_part(part: str | None) -> Part:
    """Our share of the work: `--part i/n` (i from 0), else this process's MPI rank, else all.

    Raises:
        ParallelError: `part` is not of that form, or mpi4py is missing under mpirun.
    """
    if part:
        index, slash, count = part.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise ParallelError(f"part {part!r}: expected i/n with i in 0..n-1, such as 0/4")
        return Part(int(index), int(count))
    if not any(int(os.environ.get(name, 1)) > 1 for name in _RANK_VARIABLES):
        return Part()
    try:
        from mpi4py import MPI  # only under mpirun: it starts MPI when imported
    except ImportError as error:
        raise ParallelError("mpirun needs mpi4py here: pip install mpi4py") from error
    return Part(MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size(), MPI.COMM_WORLD)


def _end_with_parent() -> None:
    """Ends a worker whose parent was killed; it would wait for work for ever."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
