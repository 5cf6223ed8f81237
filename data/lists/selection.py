"""Selects rows of a list by class, source, count per class, or at random.

A selection may depend on the whole list: about 15 bytes per row are kept in memory.
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
"""The data sets of images, inferred from their names (spec section 1)."""

_SOURCE = re.compile(
    r"(?:.*/)?(?:n[0-9]{8}[_/]|ILSVRC20)"  # synsets, and ILSVRC's validation images
    r"|(https?://[^/]*(?:flickr|openimages)"  # group 1: the lists of URLs,
    r"|(?:.*/)?[0-9]{5,}_[0-9a-f]{8,10}(?:_[a-z])?\.jpg$"  # files named as at Flickr,
    r"|(?:.*/)?[0-9a-f]{16}(?:\.jpg)?$)"  # and image ids
)

ORDER_ROWS = 1 << 16
"""Rows that `at_most_per_class` processes at a time."""


def sources(block: Block) -> np.ndarray:
    """int8 [R]: the index in SOURCES of each row's image."""
    matches = map(_SOURCE.match, block.names)
    return np.array([2 if m is None else m.lastindex is not None for m in matches], np.int8)


class Rows(NamedTuple):
    """N candidate rows; row n is an example of `classes[offsets[n]:offsets[n + 1]]`.

    Attributes:
        numbers: int32 [N], line numbers in the list, from 0.
        offsets: int64 [N + 1].
        classes: int32.
    """

    numbers: np.ndarray
    offsets: np.ndarray
    classes: np.ndarray

    def take(self, which: np.ndarray) -> Rows:
        """The rows at the given indices (int64), in that order."""
        sizes = np.diff(self.offsets)[which]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        first = np.repeat(self.offsets[which] - offsets[:-1], sizes)
        return Rows(self.numbers[which], offsets, self.classes[first + np.arange(offsets[-1])])


@dataclass
class _Candidates:
    """Candidates of one chunk: line numbers in the chunk, class counts, and all their classes."""

    numbers: np.ndarray
    sizes: np.ndarray
    classes: np.ndarray
    rows: int
    lines: int
    problems: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Filter:
    """Finds candidate rows, and the classes of which each is an example.

    A row is an example only of its most specific classes, those that are not ancestors of another
    class of the row. Otherwise, a limit of k images per class would allow only k images in total,
    because every image is an example of a root class such as `thing`.

    Attributes:
        wanted: bool [C], a row must have a label of one of these classes; None accepts every row.
        hierarchy: defines the most specific classes; without it, all classes of a row count.
        sources: which of SOURCES are accepted; None accepts all.
        above: only labels with a confidence above this count.
    """

    wanted: np.ndarray | None = None
    hierarchy: Hierarchy | None = None
    sources: frozenset[str] | None = None
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
        if self.sources is None:
            return np.ones(len(block), bool)
        return np.array([source in self.sources for source in SOURCES])[sources(block)]


def most_specific(labels: Labels, hierarchy: Hierarchy) -> Labels:
    """The labels whose class is not an ancestor of another label's class in their row."""
    rows = labels.rows << 32
    keys = rows | labels.classes
    order = np.argsort(keys)
    ordered = keys[order]
    specific = np.ones(len(keys), bool)
    # Walk up from each label to its nearest ancestor among the row's labels, which is not specific;
    # that ancestor's own walk reaches the ones above it.
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
    """The candidates of a list.

    Attributes:
        rows: the candidates.
        rows_read: number of rows of the list.
        chunk_lines: number of lines of each chunk, see `write_lines`.
        refused: malformed lines.
    """

    rows: Rows
    rows_read: int
    chunk_lines: list[int]
    refused: Refused


def find_candidates(path: str | os.PathLike, rule: Filter, processes: int) -> Candidates:
    """Reads a list and returns the candidates that the filter `rule` accepts."""
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
    """Selects at most `most` rows per class, greedily in random order.

    A row is selected if none of its classes is full yet; rows without a class never are selected.

    Returns:
        sorted indices of the selected rows, int64.
    """
    taken = []
    used = np.zeros(int(rows.classes.max(initial=-1)) + 1, np.int64)
    order = np.random.default_rng(seed).permutation(len(rows.numbers)).astype(np.int64)
    for start in range(0, len(order), ORDER_ROWS):
        which = order[start : start + ORDER_ROWS]
        which = which[_all_true(rows.take(which), used < most)]
        some = rows.take(which)
        # Only classes that could exceed `most` in this block are counted row by row, in Python.
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
    """bool [N]: whether a row has classes, all of which are `good` (bool [C])."""
    bad = np.concatenate([[0], np.cumsum(~good[rows.classes])])
    return (np.diff(rows.offsets) > 0) & (bad[rows.offsets[1:]] == bad[rows.offsets[:-1]])


def at_random(rows: Rows, count: int, seed: int) -> np.ndarray:
    """Selects `count` rows (or all, if there are fewer) at random; returns their sorted indices."""
    found = len(rows.numbers)
    chosen = np.random.default_rng(seed).permutation(found)[: min(count, found)]
    return np.sort(chosen)


def stratified(rows: Rows, count: int, seed: int) -> np.ndarray:
    """Selects `count` rows at random, the same fraction of each class, up to rounding.

    A row counts toward the rarest of its classes. The quotas of the classes are rounded by the
    largest-remainder method, so that they add up to `count`.

    Returns:
        sorted indices of the selected rows, int64.
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
    """int64 [N]: the rarest class of each row; the largest class + 1 for rows without a class."""
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
    """Copies lines of a list to another file.

    Args:
        path: the list.
        output: the file to write.
        numbers: numbers of the lines, ascending, from 0.
        chunk_lines: number of lines of each chunk of the list.
        processes: number of worker processes.
    """
    ends = np.cumsum(chunk_lines)
    starts = ends - chunk_lines
    parts = np.split(numbers, np.searchsorted(numbers, ends[:-1])) if len(ends) else []
    lines = [part - start for part, start in zip(parts, starts, strict=True)]
    with rewritten(output) as file:
        for copied, _, _ in over_list(path, _copy, processes, lines):
            file.write(copied.text)
