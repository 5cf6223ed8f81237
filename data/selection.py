"""Which rows of a list to take: by class and source, at most so many a class, at random.

Rows are chosen with about 15 bytes a row in memory, so a choice may depend on the whole list.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from data.hierarchy import Hierarchy
from data.list_blocks import Block, Chunk, Tags, read_block
from data.list_jobs import Refused, over_list, rewritten
from data.sources import SOURCES, sources

_ORDER_ROWS = 1 << 16


class Rows(NamedTuple):
    """Candidates: `numbers` int64 [N] are their places among the rows of the list.

    Candidate n is an example of the classes `classes[offsets[n]:offsets[n + 1]]` (int32).
    """

    numbers: np.ndarray
    offsets: np.ndarray
    classes: np.ndarray

    def take(self, which: np.ndarray) -> Rows:
        """The candidates of the given places, in that order."""
        sizes = np.diff(self.offsets)[which]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        first = np.repeat(self.offsets[which] - offsets[:-1], sizes)
        return Rows(self.numbers[which], offsets, self.classes[first + np.arange(offsets[-1])])


@dataclass
class _Candidates:
    """Of one chunk: bool [R], the number of classes of each candidate, and the classes."""

    eligible: np.ndarray
    sizes: np.ndarray
    classes: np.ndarray
    lines: int
    problems: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Filter:
    """Which rows are candidates, and of which classes they are examples.

    A row is an example of its most specific classes: those that are no ancestor of another class
    of the row. (It is no example of `animal` for every `dog`: or else k images a class would be k
    images in all, because each of them is a `thing`.)

    Attributes:
        wanted: bool [C], a row needs a tag of one of these classes; None takes every row.
        hierarchy: for the most specific classes; without it, all classes of a row count.
        names: SOURCES that are taken; None takes all.
        above: tags count with a confidence above this.
    """

    wanted: np.ndarray | None = None
    hierarchy: Hierarchy | None = None
    names: frozenset[str] | None = None
    above: float = 0.0

    def __call__(self, chunk: Chunk) -> _Candidates:
        block = read_block(chunk, len(self.hierarchy) if self.hierarchy else None)
        holds = block.tags.confidences > self.above
        if self.wanted is not None:
            known = block.tags.classes < len(self.wanted)
            holds &= known & self.wanted[np.where(known, block.tags.classes, 0)]
        tags = block.tags.where(holds)
        eligible = self._of_source(block)
        if self.wanted is not None:
            eligible &= np.diff(tags.offsets) > 0
        tags = tags.of_rows(eligible)
        if self.hierarchy is not None:
            tags = most_specific(tags, self.hierarchy)
        sizes = np.diff(tags.offsets).astype(np.int32)
        return _Candidates(eligible, sizes, tags.classes, block.lines, block.problems)

    def _of_source(self, block: Block) -> np.ndarray:
        if self.names is None:
            return np.ones(len(block), bool)
        return np.array([name in self.names for name in SOURCES])[sources(block)]


def most_specific(tags: Tags, hierarchy: Hierarchy) -> Tags:
    """The tags that are no ancestor of another tag of their row."""
    offsets, members = hierarchy.closure
    first = offsets[tags.classes] + 1  # the ancestors stand behind the class itself
    sizes = offsets[tags.classes + 1] - first
    entry = np.repeat(first - np.cumsum(sizes) + sizes, sizes) + np.arange(int(sizes.sum()))
    rows = tags.rows << 32
    above = np.sort(np.repeat(rows, sizes) | members[entry])
    own = rows | tags.classes
    at = np.minimum(np.searchsorted(above, own), max(0, len(above) - 1))
    is_above = above[at] == own if len(above) else np.zeros(len(own), bool)
    return tags.where(~is_above)


def find_candidates(
    path: str | os.PathLike, rule: Filter, processes: int
) -> tuple[Rows, list[int], Refused]:
    """The candidates of a list, the number of rows of each chunk, and the refused lines."""
    refused = Refused(path)
    numbers, sizes, classes, chunk_rows = [], [], [], []
    rows = 0
    for found, lines, _ in over_list(path, rule, processes):
        refused.add(found.problems, lines)
        numbers.append((np.flatnonzero(found.eligible) + rows).astype(np.int32))
        sizes.append(found.sizes)
        classes.append(found.classes)
        chunk_rows.append(len(found.eligible))
        rows += chunk_rows[-1]
    empty = np.zeros(0, np.int32)
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([empty, *sizes]), dtype=np.int64)])
    found = Rows(np.concatenate([empty, *numbers]), offsets, np.concatenate([empty, *classes]))
    return found, chunk_rows, refused


def at_most_per_class(rows: Rows, most: int, seed: int) -> np.ndarray:
    """Places of candidates taken in random order, as long as none of their classes is full.

    Candidates without a class are never taken.
    """
    taken = []
    used = np.zeros(int(rows.classes.max(initial=-1)) + 1, np.int64)
    order = np.random.default_rng(seed).permutation(len(rows.numbers)).astype(np.int64)
    for start in range(0, len(order), _ORDER_ROWS):
        which = order[start : start + _ORDER_ROWS]
        which = which[_all_true(rows.take(which), used < most)]
        some = rows.take(which)
        # Classes that stay below `most` whatever is taken need no care.
        scarce = used + np.bincount(some.classes, minlength=len(used)) > most
        free = _all_true(some, ~scarce)
        chosen = free.copy()
        room = (most - used).tolist()
        ends = some.offsets.tolist()
        for n in np.flatnonzero(~free).tolist():
            classes = some.classes[ends[n] : ends[n + 1]].tolist()
            if all(room[c] > 0 for c in classes):
                chosen[n] = True
                for c in classes:
                    room[c] -= 1
        taken.append(which[chosen])
        used += np.bincount(rows.take(which[chosen]).classes, minlength=len(used))
    return np.sort(np.concatenate([np.zeros(0, np.int64), *taken]))


def _all_true(rows: Rows, good: np.ndarray) -> np.ndarray:
    """bool [N]: candidates that have classes, all of them good."""
    bad = np.concatenate([[0], np.cumsum(~good[rows.classes])])
    return (np.diff(rows.offsets) > 0) & (bad[rows.offsets[1:]] == bad[rows.offsets[:-1]])


def at_random(rows: Rows, count: int, seed: int) -> np.ndarray:
    """Places of `count` candidates (or all, if there are fewer), each equally likely."""
    found = len(rows.numbers)
    chosen = np.random.default_rng(seed).permutation(found)[: min(count, found)]
    return np.sort(chosen)


def stratified(rows: Rows, count: int, seed: int) -> np.ndarray:
    """Places of `count` candidates, of each class the same share as far as whole images go.

    A candidate stands for the rarest of its classes. Of each class its share of `count` is taken
    at random, rounded so that they add up (largest remainder).
    """
    stratum = _rarest_class(rows)
    sizes = np.bincount(stratum)
    share = sizes * (min(count, len(stratum)) / max(1, len(stratum)))
    quota = np.floor(share).astype(np.int64)
    missing = min(count, len(stratum)) - int(quota.sum())
    quota[np.argsort(-(share - quota), kind="stable")[:missing]] += 1
    shuffled = np.random.default_rng(seed).permutation(len(stratum))
    order = shuffled[np.argsort(stratum[shuffled], kind="stable")]
    place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[place < quota[stratum[order]]])


def _rarest_class(rows: Rows) -> np.ndarray:
    """int64 [N]: of each candidate; those without a class have one more than the last class."""
    frequency = np.bincount(rows.classes)
    by_rank = np.argsort(frequency, kind="stable")
    rank = np.empty_like(by_rank)
    rank[by_rank] = np.arange(len(by_rank))
    result = np.full(len(rows.numbers), len(frequency))
    has = np.diff(rows.offsets) > 0
    if has.any():
        result[has] = by_rank[np.minimum.reduceat(rank[rows.classes], rows.offsets[:-1][has])]
    return result


@dataclass
class _Copied:
    text: bytes
    lines: int


def _copy(work: tuple[Chunk, np.ndarray]) -> _Copied:
    chunk, places = work
    block = read_block(chunk)
    chosen = np.zeros(len(block), bool)
    chosen[places] = True
    return _Copied(block.text(chosen), block.lines)


def write_rows(
    path: str | os.PathLike,
    output: str | os.PathLike,
    numbers: np.ndarray,
    chunk_rows: list[int],
    processes: int,
) -> None:
    """Writes the rows with the given numbers (ascending), in the order of the list."""
    ends = np.cumsum(chunk_rows)
    cuts = np.searchsorted(numbers, ends[:-1]) if len(ends) else []
    starts = ends - chunk_rows
    places = [part - start for part, start in zip(np.split(numbers, cuts), starts, strict=False)]
    with rewritten(output) as file:
        for copied, _, _ in over_list(path, _copy, processes, places):
            file.write(copied.text)
