"""Selects rows of a list by class, source, count per class, or at random.

Rows are chosen with about 15 bytes per row in memory, so a choice may depend on the whole list.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from data.common.files import rewritten
from data.lists.blocks import Block, Labels, Refused, over_list, read_block
from data.lists.hierarchy import NO_PARENT, Hierarchy
from data.lists.rows import Chunk

SOURCES = ("ImageNet", "Open Images", "other")
"""The data sets that images come from, inferred from their names (spec section 1)."""

_SOURCE = re.compile(
    r"(?:.*/)?(?:n[0-9]{8}[_/]|ILSVRC20)"  # synsets, and ILSVRC's validation images
    r"|(https?://[^/]*(?:flickr|openimages)"  # group 1: the lists of URLs,
    r"|(?:.*/)?[0-9]{5,}_[0-9a-f]{8,10}(?:_[a-z])?\.jpg$"  # files called as at Flickr,
    r"|(?:.*/)?[0-9a-f]{16}(?:\.jpg)?$)"  # and image ids
)

ORDER_ROWS = 1 << 16


def sources(block: Block) -> np.ndarray:
    """int8 [R]: the index in SOURCES of each row's image."""
    matches = map(_SOURCE.match, block.names)
    return np.array([2 if m is None else m.lastindex is not None for m in matches], np.int8)


class Rows(NamedTuple):
    """Candidates: `numbers` int32 [N] are the numbers of their lines in the list, from 0.

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
    """Of one chunk with R rows: the candidates' lines in it, how many classes each, and which."""

    numbers: np.ndarray
    sizes: np.ndarray
    classes: np.ndarray
    rows: int
    lines: int
    problems: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Filter:
    """Which rows are candidates, and of which classes they are examples.

    A row is an example of its most specific classes: those that are no ancestor of another class
    of the row. (It is no example of `animal` for every `dog`: or else k images per class would be k
    images in all, because each of them is a `thing`.)

    Attributes:
        wanted: bool [C], a row needs a label of one of these classes; None takes every row.
        hierarchy: for the most specific classes; without it, all classes of a row count.
        names: SOURCES that are taken; None takes all.
        above: labels count with a confidence above this.
    """

    wanted: np.ndarray | None = None
    hierarchy: Hierarchy | None = None
    names: frozenset[str] | None = None
    above: float = 0.0

    def __call__(self, chunk: Chunk) -> _Candidates:
        block = read_block(chunk, len(self.hierarchy) if self.hierarchy else None)
        holds = block.labels.confidences > self.above
        if self.wanted is not None:
            known = block.labels.classes < len(self.wanted)
            holds &= known & self.wanted[np.where(known, block.labels.classes, 0)]
        labels = block.labels.where(holds)
        eligible = self._of_source(block)
        if self.wanted is not None:
            eligible &= np.diff(labels.offsets) > 0
        labels = labels.of_rows(eligible)
        if self.hierarchy is not None:
            labels = most_specific(labels, self.hierarchy)
        sizes = np.diff(labels.offsets).astype(np.int32)
        numbers = block.numbers[eligible]
        return _Candidates(numbers, sizes, labels.classes, len(block), block.lines, block.problems)

    def _of_source(self, block: Block) -> np.ndarray:
        if self.names is None:
            return np.ones(len(block), bool)
        return np.array([name in self.names for name in SOURCES])[sources(block)]


def most_specific(labels: Labels, hierarchy: Hierarchy) -> Labels:
    """The labels that are no ancestor of another label of their row."""
    rows = labels.rows << 32
    keys = rows | labels.classes
    order = np.argsort(keys)
    ordered = keys[order]
    specific = np.ones(len(keys), bool)
    # From each label upwards to the next ancestor that labels the row; that one continues alone.
    walking = np.arange(len(keys))
    above = hierarchy.parents[labels.classes]
    while True:
        walking, above = walking[above != NO_PARENT], above[above != NO_PARENT]
        if not len(walking):
            return labels.where(specific)
        wanted = rows[walking] | above
        at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
        arrived = ordered[at] == wanted
        specific[order[at[arrived]]] = False
        walking, above = walking[~arrived], hierarchy.parents[above[~arrived]]


class Candidates(NamedTuple):
    """The candidates of a list, with how many rows it has, and the lines of each chunk."""

    rows: Rows
    rows_read: int
    chunk_lines: list[int]
    refused: Refused


def find_candidates(path: str | os.PathLike, rule: Filter, processes: int) -> Candidates:
    refused = Refused(path)
    empty = np.zeros(0, np.int32)
    numbers, sizes, classes, chunk_lines = [empty], [empty], [empty], []
    rows_read = 0
    for found, lines, _ in over_list(path, rule, processes):
        refused.add(found.problems, lines)
        numbers.append((found.numbers + lines).astype(np.int32))
        sizes.append(found.sizes)
        classes.append(found.classes)
        chunk_lines.append(found.lines)
        rows_read += found.rows
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(sizes), dtype=np.int64)])
    rows = Rows(np.concatenate(numbers), offsets, np.concatenate(classes))
    return Candidates(rows, rows_read, chunk_lines, refused)


def at_most_per_class(rows: Rows, most: int, seed: int) -> np.ndarray:
    """Places of candidates taken in random order, as long as none of their classes is full.

    Candidates without a class are never taken.
    """
    taken = []
    used = np.zeros(int(rows.classes.max(initial=-1)) + 1, np.int64)
    order = np.random.default_rng(seed).permutation(len(rows.numbers)).astype(np.int64)
    for start in range(0, len(order), ORDER_ROWS):
        which = order[start : start + ORDER_ROWS]
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
    """Places of `count` candidates, of each class the same fraction as far as whole images go.

    A candidate stands for the rarest of its classes. Of each class its quota of `count` is taken
    at random, rounded so that they add up (largest remainder).
    """
    stratum = _rarest_class(rows)
    sizes = np.bincount(stratum)
    exact = sizes * (min(count, len(stratum)) / max(1, len(stratum)))
    quota = np.floor(exact).astype(np.int64)
    missing = min(count, len(stratum)) - int(quota.sum())
    quota[np.argsort(-(exact - quota), kind="stable")[:missing]] += 1
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
    chunk, lines = work
    text = chunk.read().removesuffix(b"\n").split(b"\n")
    return _Copied(b"".join([text[line] + b"\n" for line in lines.tolist()]), len(text))


def write_lines(
    path: str | os.PathLike,
    output: str | os.PathLike,
    numbers: np.ndarray,
    chunk_lines: list[int],
    processes: int,
) -> None:
    """Copies the lines with the given numbers (ascending, from 0)."""
    ends = np.cumsum(chunk_lines)
    starts = ends - chunk_lines
    parts = np.split(numbers, np.searchsorted(numbers, ends[:-1])) if len(ends) else []
    lines = [part - start for part, start in zip(parts, starts, strict=True)]
    with rewritten(output) as file:
        for copied, _, _ in over_list(path, _copy, processes, lines):
            file.write(copied.text)
