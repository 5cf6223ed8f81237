"""Results of threads in order, errors in their place, and an end to the threads."""

import itertools
import threading
import time

import pytest

from data.common.threads import map_ahead


def slow_square(number):
    time.sleep(0.002 * (number % 3))
    return number * number


@pytest.mark.parametrize(("threads", "ahead"), [(1, 1), (3, 2), (2, 40)])
def test_results_come_in_order(threads, ahead):
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
