"""Sharing work among worker processes: order, bounds, dead workers."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data.common.errors import UserError
from data.common.parallel import cores, ordered_map

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
