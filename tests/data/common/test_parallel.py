"""Maps over processes and threads: order, bounds, errors, dead workers."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from data.common.errors import UserError
from data.common.parallel import cores, map_ahead, ordered_map

ROOT = Path(__file__).resolve().parents[3]


def square(x):
    return x * x


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def fail(x):
    raise KeyError(x)


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_order(processes):
    assert list(ordered_map(square, range(50), processes)) == [x * x for x in range(50)]
    assert list(ordered_map(square, [], processes)) == []


@pytest.mark.slow
def test_work_is_taken_as_it_is_done():
    taken = []

    def items():
        for i in range(1000):
            taken.append(i)
            yield i

    results = ordered_map(square, items(), 2)
    assert next(results) == 0
    assert len(taken) < 20
    results.close()


def test_exceptions_of_workers_are_raised_here():
    with pytest.raises(KeyError):
        list(ordered_map(fail, [1], 2))


def test_a_killed_worker_is_an_error():
    with pytest.raises(UserError, match="a worker process was killed; run again to continue"):
        list(ordered_map(die, [1], 2))


INTERRUPTED = """
import multiprocessing, os, signal
from data.common.parallel import ordered_map

signal.signal(signal.SIGALRM, lambda *_: os.killpg(0, signal.SIGINT))
for moment in range(1, 301):
    try:
        signal.setitimer(signal.ITIMER_REAL, moment * 1e-4)
        while True:
            for _ in ordered_map(abs, range(30), 2):
                pass
    except KeyboardInterrupt:
        pass
    for worker in multiprocessing.active_children():
        worker.join()
print("stopped at all moments")
"""


@pytest.mark.slow
def test_ctrl_c_to_the_process_group_at_any_moment():
    """Over and over, workers are made, fed and ended; the signal comes 0.1 to 30 ms after."""
    finished = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        cwd=ROOT,
        start_new_session=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (finished.stdout, finished.stderr) == ("stopped at all moments\n", "")


def test_cores_are_those_we_may_use():
    assert 1 <= cores() <= os.cpu_count()


def slow_square(number):
    time.sleep(0.002 * (number % 3))
    return number * number


@pytest.mark.parametrize(("threads", "ahead"), [(1, 1), (3, 2), (2, 40)])
def test_results_of_threads_come_in_order(threads, ahead):
    assert list(map_ahead(slow_square, range(20), threads, ahead)) == [n * n for n in range(20)]
    assert list(map_ahead(slow_square, [], threads, ahead)) == []


def test_no_more_items_are_taken_than_wait():
    taken = []
    results = map_ahead(slow_square, (taken.append(n) or n for n in itertools.count()), 2, 5)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(taken) == 3 + 5
    results.close()


def test_errors_of_the_function_and_of_the_items_come_in_their_place():
    def items():
        yield from (4, 2, 1)
        raise KeyError("no more")

    results = map_ahead(lambda number: 4 // number, items(), 2, 9)
    assert [next(results) for _ in range(3)] == [1, 2, 4]
    with pytest.raises(KeyError, match="no more"):
        next(results)
    results = map_ahead(lambda number: 4 // number, [1, 0, 2], 2, 9)
    assert next(results) == 4
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_closing_drops_what_has_not_begun():
    begun, before = [], threading.active_count()
    results = map_ahead(lambda n: begun.append(n) or time.sleep(0.01), itertools.count(), 2, 50)
    next(results)
    results.close()
    assert len(begun) < 20
    assert threading.active_count() == before
