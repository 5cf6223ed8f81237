"""The order of requests: host limits, back-off, pauses, hosts given up, outages waited for."""

from __future__ import annotations

import pytest

from data.common.errors import UserError
from data.download import scheduler as download_scheduler
from data.download.fetch import FetchError
from data.download.scheduler import UNREACHABLE_ATTEMPTS, Scheduler, Task

BUSY = FetchError("http_429", "", is_transient=True, is_throttled=True)
BROKEN = FetchError("http_500", "", is_transient=True)
UNREACHABLE = FetchError("unreachable", "", is_transient=True)
OFFLINE = FetchError("offline", "", is_transient=True)


def tasks(*hosts: str) -> list[Task]:
    return [Task(row, "", "", host) for row, host in enumerate(hosts)]


def filled(host_limit: int, *hosts: str, retries: int = 2) -> Scheduler:
    scheduler = Scheduler(host_limit, retries, has_answered=True)
    for task in tasks(*hosts):
        scheduler.add(task)
    return scheduler


def taken(scheduler: Scheduler, now: float = 0.0) -> list[Task]:
    found = []
    while (task := scheduler.take(now)) is not None:
        found.append(task)
    return found


def test_host_limit_and_turns() -> None:
    scheduler = filled(2, *"aaabba")
    first = taken(scheduler)
    assert [task.host for task in first] == ["a", "b", "a", "b"]
    assert scheduler.waiting == 2
    scheduler.answered(first[0])
    assert [task.row for task in taken(scheduler)] == [2]


def test_back_off_doubles_and_ends(monkeypatch) -> None:
    monkeypatch.setattr(download_scheduler.random, "uniform", lambda low, high: high)
    scheduler = filled(1, "a", retries=3)
    now, waits = 0.0, []
    while True:
        (task,) = taken(scheduler, now)
        if not scheduler.failed(task, now, BROKEN):
            break
        due = scheduler.next_time()
        waits.append(due - now)
        assert taken(scheduler, due - 0.01) == []
        now = due
    assert waits == [1, 2, 4]
    assert scheduler.waiting == 0


def test_retry_after_pauses_the_whole_host() -> None:
    scheduler = filled(1, "a", "a", "b")
    a, b = taken(scheduler)
    error = FetchError("http_429", "", is_transient=True, retry_after=30.0, is_throttled=True)
    assert scheduler.failed(a, 0.0, error)
    assert taken(scheduler, 29.0) == []
    scheduler.answered(b)
    assert [task.row for task in taken(scheduler, 30.0)] == [1]


def test_retry_after_has_a_limit() -> None:
    scheduler = filled(1, "a")
    error = FetchError("http_429", "", is_transient=True, retry_after=1e9, is_throttled=True)
    assert scheduler.failed(taken(scheduler)[0], 0.0, error)
    assert scheduler.next_time() == download_scheduler.LONGEST_PAUSE_SECONDS


def test_a_host_that_stays_busy_is_given_up() -> None:
    scheduler = filled(1, *"a" * 5)
    now, pauses = 0.0, 0
    while scheduler.given_up("a") is None:
        for task in taken(scheduler, now):
            scheduler.failed(task, now, BUSY)
            pauses += 1
        now = scheduler.next_time() or now
    assert pauses == download_scheduler.THROTTLED_PAUSES + 1
    assert scheduler.given_up("a") == "http_429"
    # What waits can be had at once, to be refused.
    while (task := scheduler.take(now + 1e6)) is not None:
        scheduler.refused(task)
    assert scheduler.waiting == 0


def test_a_success_between_pauses_keeps_the_host() -> None:
    scheduler = filled(1, *"a" * 60)
    now = 0.0
    for _ in range(25):
        scheduler.failed(taken(scheduler, now)[0], now, BUSY)
        now += 1e4
        scheduler.answered(taken(scheduler, now)[0])
    assert scheduler.given_up("a") is None


def test_an_unreachable_host_is_given_up_and_others_are_not() -> None:
    attempts = download_scheduler.UNREACHABLE_ATTEMPTS
    scheduler = filled(attempts + 5, *"a" * attempts, "b")
    for task in taken(scheduler):
        if task.host == "b":
            scheduler.answered(task)
        else:
            assert scheduler.given_up("a") is None
            scheduler.failed(task, 0.0, UNREACHABLE)
    assert scheduler.given_up("a") == "unreachable"
    assert scheduler.given_up("b") is None


def test_an_outage_is_waited_for_and_costs_no_attempts() -> None:
    hosts = [f"host{i}" for i in range(download_scheduler.OFFLINE_ATTEMPTS + 10)]
    scheduler = filled(1, *hosts, retries=0)
    failed = [task for task in taken(scheduler) if not scheduler.failed(task, 0.0, OFFLINE)]
    assert len(failed) == download_scheduler.OFFLINE_ATTEMPTS - 1
    assert taken(scheduler, download_scheduler.OFFLINE_PAUSE_SECONDS - 1) == []
    back = taken(scheduler, download_scheduler.OFFLINE_PAUSE_SECONDS + 1)
    assert len(back) == 11
    for task in back:
        scheduler.answered(task)


def test_an_outage_does_not_give_the_only_host_up() -> None:
    scheduler = filled(64, *"a" * 500, retries=4)
    for now in range(0, 3600, 10):
        for task in taken(scheduler, now):
            assert scheduler.failed(task, now, OFFLINE)
    assert scheduler.given_up("a") is None
    ended = 0
    while scheduler.waiting:
        now += 60
        for task in taken(scheduler, now):
            scheduler.answered(task)
            ended += 1
    assert ended == 500


def test_the_only_host_without_a_name_server_is_given_up_after_two_hours() -> None:
    scheduler = filled(64, *"a" * 20_000, retries=4)
    now = final = 0
    while scheduler.waiting:
        while (task := scheduler.take(now)) is not None:
            if scheduler.given_up("a"):
                scheduler.refused(task)
                final += 1
            else:
                final += not scheduler.failed(task, now, OFFLINE)
        now += 10
    assert final == 20_000
    assert 7200 <= now < 8000


def test_a_host_without_a_name_server_is_given_up_while_others_answer() -> None:
    attempts = download_scheduler.UNREACHABLE_ATTEMPTS
    scheduler = filled(1, *"ab" * (attempts + 1))
    for _ in range(attempts):
        assert scheduler.given_up("a") is None
        for task in (scheduler.take(0.0), scheduler.take(0.0)):
            if task.host == "a":
                scheduler.failed(task, 0.0, OFFLINE)
            else:
                scheduler.answered(task)
    assert scheduler.given_up("a") == "offline"


def test_refusing_a_given_up_host_hides_no_outage() -> None:
    attempts = download_scheduler.UNREACHABLE_ATTEMPTS
    scheduler = filled(attempts, *"a" * 200)
    for task in taken(scheduler):
        scheduler.failed(task, 0.0, UNREACHABLE)
    for row in range(download_scheduler.OFFLINE_ATTEMPTS - attempts):
        scheduler.add(Task(row, "", "", f"host{row}"))
        for task in (scheduler.take(0.0), scheduler.take(0.0)):
            if scheduler.given_up(task.host):
                scheduler.refused(task)
            else:
                scheduler.failed(task, 0.0, OFFLINE)
    assert taken(scheduler, download_scheduler.OFFLINE_PAUSE_SECONDS - 1) == []
    assert scheduler.given_up("a") == "unreachable"


def test_an_unanswering_resolver_does_not_hold_us_for_ever() -> None:
    scheduler = filled(1, *[f"host{i}" for i in range(200)], retries=0)
    now = final = 0
    while scheduler.waiting:
        final += sum(not scheduler.failed(task, now, OFFLINE) for task in taken(scheduler, now))
        now += 31
    assert final == 200


@pytest.mark.parametrize("rows", [1, 200])
def test_without_a_network_from_the_start_no_row_fails(rows: int) -> None:
    scheduler = Scheduler(1, 0)
    for task in tasks(*[f"host{i}" for i in range(rows)]):
        scheduler.add(task)
    now = 0.0
    with pytest.raises(UserError, match="no row is marked as failed"):
        while now < 1e4:
            assert all(scheduler.failed(task, now, OFFLINE) for task in taken(scheduler, now))
            now += 1
    assert now < 300


def test_hosts_are_forgotten(monkeypatch) -> None:
    """Of hosts without a task only the latest few keep their history of failures."""
    monkeypatch.setattr(download_scheduler, "REMEMBERED_HOSTS", 10)
    scheduler = Scheduler(1, 0)

    def fail(host: str) -> None:
        scheduler.add(Task(0, "", "", host))
        (task,) = taken(scheduler)
        assert not scheduler.failed(task, 0.0, UNREACHABLE)

    for _ in range(UNREACHABLE_ATTEMPTS - 1):
        fail("first")
        fail("second")
    for number in range(9):  # with the second host these are ten
        fail(f"host{number}")
    fail("first")
    assert scheduler.given_up("first") is None
    for number in range(9):
        assert scheduler.given_up(f"host{number}") is None


def test_remembered_hosts_are_given_up(monkeypatch) -> None:
    monkeypatch.setattr(download_scheduler, "REMEMBERED_HOSTS", 10)
    scheduler = Scheduler(1, 0)
    hosts = ["first"] * (UNREACHABLE_ATTEMPTS - 1) + [f"host{n}" for n in range(9)] + ["first"]
    for task in tasks(*hosts):
        scheduler.add(task)
        (taken_task,) = taken(scheduler)
        scheduler.failed(taken_task, 0.0, UNREACHABLE)
    assert scheduler.given_up("first") == "unreachable"


@pytest.mark.parametrize("limit", [1, 3])
def test_every_task_ends_once(limit: int) -> None:
    """Random failures over hosts: nothing is lost, nothing comes twice."""
    generator = __import__("random").Random(limit)
    scheduler = filled(limit, *[generator.choice("abcde") for _ in range(300)])
    now, ended, flying = 0.0, [], []
    while scheduler.waiting or flying:
        flying += taken(scheduler, now)
        counts = {host: sum(task.host == host for task in flying) for host in "abcde"}
        assert max(counts.values()) <= limit
        if not flying:
            now = scheduler.next_time()
            continue
        task = flying.pop(generator.randrange(len(flying)))
        error = generator.choice([None, None, BROKEN, BUSY, UNREACHABLE])
        if error is None:
            scheduler.answered(task)
        elif scheduler.failed(task, now, error):
            continue
        ended.append(task.row)
    assert sorted(ended) == list(range(300))
