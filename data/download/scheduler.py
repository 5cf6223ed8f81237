"""Download scheduler: per-host limits, back-off, Retry-After, dead hosts.

It uses neither threads nor the network; methods get the current time as the argument `now`, in
seconds of any clock.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from data.common.errors import UserError
from data.download.fetch import FetchError

UNREACHABLE_ATTEMPTS = 20
"""After this many consecutive attempts that could not connect, this run gives up a host."""

THROTTLED_PAUSES = 8
"""A host that still answers "too many requests" after this many pauses is given up, too."""

OFFLINE_ATTEMPTS = 50
"""After this many consecutive attempts without an answer from any host, an error of our own network
makes all tasks wait, for at most two hours; attempts made during that time do not count."""

LONGEST_PAUSE_SECONDS = 600.0
OFFLINE_PAUSE_SECONDS = 30.0
OFFLINE_PAUSES = 240  # two hours
_FIRST_OFFLINE_PAUSES = 2  # instead of OFFLINE_PAUSES, until a host answers for the first time
FIRST_PAUSE_SECONDS = 1.0
_LONGEST_BACKOFF_SECONDS = 60.0
_THROTTLED_RETRIES = 10
REMEMBERED_HOSTS = 100_000
"""Limit, to bound memory, of remembered hosts with failures but no tasks, and of given-up hosts."""


@dataclass(eq=False)
class Task:
    """A row to fetch.

    Attributes:
        row: its number in its part of the list, from 0.
        file: path of the image in the folder of images.
        rotation: degrees counterclockwise, see `images.to_jpeg`.
        attempts: number of attempts so far; the host answered `throttled` of them with "too many
            requests".
    """

    row: int
    file: str
    url: str
    host: str
    rotation: int = 0
    attempts: int = 0
    throttled: int = 0


@dataclass
class _Host:
    waiting: deque[Task] = field(default_factory=deque)
    in_flight: int = 0
    paused_until: float = 0.0
    unreachable: int = 0
    pauses: int = 0
    is_queued: bool = False  # in the queue of hosts that may get requests


class Scheduler:
    """Hands out tasks, rotating among hosts, with at most `host_limit` in flight per host.

    Args:
        host_limit: number of tasks in flight per host.
        retries: number of attempts after the first one.
        has_answered: whether a host of the list has ever answered. Until one has, an error of our
            own network does not count as an attempt, and ends the run if it lasts about a minute.
    """

    def __init__(self, host_limit: int, retries: int, has_answered: bool = False) -> None:
        self._host_limit = host_limit
        self._retries = retries
        self._hosts: dict[str, _Host] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()  # hosts with a history, but no task
        self._given_up: OrderedDict[str, str] = OrderedDict()
        self._queued: deque[str] = deque()  # hosts that may get requests, in order
        self._timers: list[tuple[float, int, str, Task | None]] = []
        self._order = itertools.count()
        self._has_answered = has_answered
        self._unanswered = 0  # attempts since any host answered
        self._offline_until = 0.0
        self._offline_pauses = 0
        self.waiting = 0  # tasks that were added or taken back and are not in flight

    def add(self, task: Task) -> None:
        """Adds a new task."""
        self.waiting += 1
        self._enqueue(task)

    def take(self, now: float) -> Task | None:
        """Takes the next task, which is then in flight; None if no task may start now."""
        if now < self._offline_until:
            return None
        while self._timers and self._timers[0][0] <= now:
            _, _, name, task = heapq.heappop(self._timers)
            if task is not None:
                self._enqueue(task)
            elif name in self._hosts:
                self._queue(name)
        while self._queued:
            name = self._queued.popleft()
            host = self._hosts[name]
            host.is_queued = False
            if now < host.paused_until or not host.waiting or host.in_flight >= self._host_limit:
                continue  # queued again when its pause ends or a task is released
            host.in_flight += 1
            self.waiting -= 1
            task = host.waiting.popleft()
            self._queue(name)
            return task
        return None

    def next_time(self) -> float | None:
        """The time when the next pause or back-off ends; None if there is none."""
        return max(self._timers[0][0], self._offline_until) if self._timers else None

    def given_up(self, host: str) -> str | None:
        """The kind of failure because of which this host was given up; None if it was not."""
        return self._given_up.get(host)

    def answered(self, task: Task) -> None:
        """Ends a task whose host answered, with a body or a final refusal."""
        host = self._hosts[task.host]
        host.unreachable = host.pauses = 0
        self._has_answered = True
        self._unanswered = self._offline_pauses = 0
        self._release(task.host)

    def refused(self, task: Task) -> None:
        """Ends a task that was not tried because its host was given up."""
        self._release(task.host)

    def retry(self, task: Task, now: float, error: FetchError) -> bool:
        """Takes back an `answered` task whose body was bad; returns whether it will be retried."""
        task.attempts += 1
        return self._again(task, now, now, error)

    def put_back(self, task: Task) -> None:
        """Takes back a task whose attempt we interrupted, which does not count."""
        self.waiting += 1
        self._hosts[task.host].waiting.appendleft(task)
        self._release(task.host)

    def failed(self, task: Task, now: float, error: FetchError) -> bool:
        """Takes back a task that got no answer or a temporary refusal; returns if it is retried.

        Raises:
            UserError: our own network is down, and no host has ever answered.
        """
        host = self._hosts[task.host]
        is_answer = error.kind not in ("unreachable", "offline")
        self._has_answered |= is_answer
        self._unanswered = 0 if is_answer else self._unanswered + 1
        if not self._is_offline(error, now):
            task.attempts += 1
            task.throttled += error.is_throttled
            host.unreachable += self._is_to_blame(error.kind)
        if error.is_throttled and now >= host.paused_until:
            self._pause(task.host, now, error.retry_after)
        if host.unreachable >= UNREACHABLE_ATTEMPTS or host.pauses > THROTTLED_PAUSES:
            self._give_up(task.host, error.kind)
        again = self._again(task, now, host.paused_until, error)
        self._release(task.host)
        return again

    def _again(self, task: Task, now: float, not_before: float, error: FetchError) -> bool:
        if (
            task.host in self._given_up
            or task.attempts - task.throttled > self._retries
            or task.throttled > _THROTTLED_RETRIES
        ):
            return False
        self.waiting += 1
        due = max(not_before, now + _backoff(task, error.retry_after))
        heapq.heappush(self._timers, (due, next(self._order), task.host, task))
        return True

    def _is_offline(self, error: FetchError, now: float) -> bool:
        """Whether the error shows that our own network is down; then all tasks wait."""
        if error.kind != "offline":
            return False
        if self._unanswered < OFFLINE_ATTEMPTS:
            return not self._has_answered
        if now >= self._offline_until:
            if not self._has_answered and self._offline_pauses == _FIRST_OFFLINE_PAUSES:
                raise UserError(
                    f"no network, name server or proxy: {error}; no row is marked as failed,"
                    " and the same command resumes"
                )
            self._offline_pauses += 1
            self._offline_until = now + OFFLINE_PAUSE_SECONDS
        return self._offline_pauses <= OFFLINE_PAUSES

    def _is_to_blame(self, kind: str) -> bool:
        """Whether the failed connection is the fault of the host, not of our own network."""
        # A failed name lookup is the host's fault if others answer, or if waiting did not help.
        has_network = self._unanswered == 1 or self._offline_pauses > OFFLINE_PAUSES
        return kind == "unreachable" or (kind == "offline" and has_network)

    def _pause(self, name: str, now: float, retry_after: float | None) -> None:
        host = self._hosts[name]
        seconds = max(retry_after or 0.0, FIRST_PAUSE_SECONDS * 2**host.pauses)
        host.pauses += 1
        host.paused_until = now + min(seconds, LONGEST_PAUSE_SECONDS)
        heapq.heappush(self._timers, (host.paused_until, next(self._order), name, None))

    def _give_up(self, name: str, kind: str) -> None:
        self._given_up[name] = kind
        self._hosts[name].paused_until = 0.0  # so its waiting tasks are taken and fail at once
        self._queue(name)
        if len(self._given_up) > REMEMBERED_HOSTS:
            self._given_up.popitem(last=False)

    def _host(self, name: str) -> _Host:
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = _Host()
        return host

    def _enqueue(self, task: Task) -> None:
        self._idle.pop(task.host, None)
        self._host(task.host).waiting.append(task)
        self._queue(task.host)

    def _queue(self, name: str) -> None:
        host = self._hosts[name]
        if host.waiting and not host.is_queued and host.in_flight < self._host_limit:
            host.is_queued = True
            self._queued.append(name)

    def _release(self, name: str) -> None:
        """Ends the flight of a host's task; forgets hosts without tasks or failures."""
        host = self._hosts[name]
        host.in_flight -= 1
        self._queue(name)
        if host.in_flight or host.waiting:
            return
        if not (host.unreachable or host.pauses):
            del self._hosts[name]
            return
        self._idle[name] = None
        if len(self._idle) > REMEMBERED_HOSTS:
            del self._hosts[self._idle.popitem(last=False)[0]]


def _backoff(task: Task, retry_after: float | None) -> float:
    """Seconds until the task's next attempt."""
    if retry_after is not None:
        return min(retry_after, LONGEST_PAUSE_SECONDS)
    seconds = min(FIRST_PAUSE_SECONDS * 2.0**task.attempts / 2, _LONGEST_BACKOFF_SECONDS)
    return seconds * random.uniform(0.5, 1.0)  # jitter: spreads out tasks that failed together
