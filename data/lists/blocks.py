"""Parses lists of millions of rows into NumPy arrays, chunk by chunk in parallel processes."""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress, pairwise
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from data.common.parallel import ordered_map
from data.common.progress import Progress
from data.lists.rows import (
    Chunk,
    ListError,
    Row,
    chunks,
    format_row,
    parse_label,
    split_lines,
    split_row,
)

CACHED_TEXTS = 1 << 17
"""Number of different label texts that are cached; with more, the cache is emptied."""

_REFUSED = -1  # in place of the class of a refused label


class Labels(NamedTuple):
    """The L labels of R rows; row r has the labels `offsets[r]` to `offsets[r + 1] - 1`.

    Attributes:
        offsets: int64 [R + 1].
        classes: int32 [L].
        confidences: float64 [L].
    """

    offsets: np.ndarray
    classes: np.ndarray
    confidences: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """int64 [L]: the row of each label."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def where(self, chosen: np.ndarray) -> Labels:
        """The labels for which `chosen` (bool [L]) is true; keeps all rows."""
        before = np.concatenate([[0], np.cumsum(chosen)])
        return Labels(before[self.offsets], self.classes[chosen], self.confidences[chosen])

    def of_rows(self, chosen: np.ndarray) -> Labels:
        """The rows for which `chosen` (bool [R]) is true, with their labels."""
        counts = np.diff(self.offsets)
        kept = np.repeat(chosen, counts)
        offsets = np.concatenate([[0], np.cumsum(counts[chosen])])
        return Labels(offsets, self.classes[kept], self.confidences[kept])


@dataclass
class Block:
    """The R rows of a chunk. Lines are numbered from 0 in the chunk.

    Attributes:
        names: image names [R].
        labels: the rows' labels, without overridden ones.
        numbers: int64 [R], the line number of each row.
        lines: number of lines of the chunk, including empty and refused ones.
        problems: (line number, reason) of each refused line.
        repeated: (line number, count) of each row in which `count` labels are overridden by a later
            label of the same class.
    """

    names: list[str]
    labels: Labels
    numbers: np.ndarray
    lines: int
    problems: list[tuple[int, str]]
    repeated: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.names)


class _LabelTable(dict):
    """Numbers the different texts of labels, and keeps the parsed label of each number.

    Texts repeat, so each is parsed once. `reasons` has, by number, why a label is refused.
    """

    def __init__(self, class_num: int | None) -> None:
        super().__init__()
        self._class_num = class_num
        self._empty()

    def _empty(self) -> None:
        self.clear()
        self._classes, self._confidences = array("i"), array("d")
        self.reasons: dict[int, str] = {}

    def __missing__(self, text: str) -> int:
        number = len(self)
        try:
            label = parse_label(text, self._class_num)
        except ListError as error:
            label = _REFUSED, 0.0
            self.reasons[number] = str(error)
        self._classes.append(label[0])
        self._confidences.append(label[1])
        self[text] = number
        return number

    def look_up(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers int64, classes int32 (-1: refused), confidences float64, all [L], of L texts."""
        if len(self) > CACHED_TEXTS:
            self._empty()
        numbers = np.fromiter(map(self.__getitem__, texts), np.int64, len(texts))
        classes = np.array(self._classes, np.int32)[numbers]
        return numbers, classes, np.array(self._confidences)[numbers]


_label_table = lru_cache(1)(_LabelTable)


def read_block(chunk: Chunk, class_num: int | None = None) -> Block:
    """Parses the rows of a chunk, see `parse_block`."""
    return parse_block(chunk.read(), class_num)


def parse_block(text: bytes, class_num: int | None = None) -> Block:
    """Parses complete lines of a list; refused lines are in `problems` of the block.

    Args:
        class_num: classes outside 0..class_num-1 are refused; None accepts any class.
    """
    names, numbers, texts, counts, problems = [], [], [], [], []
    lines = split_lines(text)
    for number, line in enumerate(lines):
        try:
            row = split_row(line)
        except ListError as error:
            problems.append((number, str(error)))
            continue
        if row is not None:
            name, own = row
            names.append(name)
            numbers.append(number)
            counts.append(len(own))
            texts += own
    table = _label_table(class_num)
    label_numbers, classes, confidences = table.look_up(texts)
    labels = Labels(_offsets(counts), classes, confidences)
    block = Block(names, labels, np.array(numbers, np.int64), len(lines), problems, [])
    refused = np.flatnonzero(classes == _REFUSED)
    if len(refused):
        _drop_refused(block, refused, [table.reasons[n] for n in label_numbers[refused].tolist()])
    _drop_repeated(block)
    return block


def _offsets(counts: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _drop_refused(block: Block, refused: np.ndarray, reasons: list[str]) -> None:
    """Moves rows with refused labels to `problems`, each with its first reason."""
    rows, first = np.unique(block.labels.rows[refused], return_index=True)
    lines = block.numbers[rows].tolist()
    block.problems += zip(lines, [reasons[n] for n in first], strict=True)
    block.problems.sort()
    kept = np.ones(len(block), bool)
    kept[rows] = False
    block.names = list(compress(block.names, kept))
    block.labels, block.numbers = block.labels.of_rows(kept), block.numbers[kept]


def _drop_repeated(block: Block) -> None:
    """Keeps each class of a row once, with its last confidence."""
    offsets, classes, confidences = block.labels
    keys = np.sort(block.labels.rows << 31 | classes)
    rows = np.unique(keys[1:][keys[1:] == keys[:-1]] >> 31)
    if not len(rows):
        return
    kept = np.ones(len(classes), bool)
    for row in rows.tolist():
        first: dict[int, int] = {}
        own = range(offsets[row], offsets[row + 1])
        for label in own:
            place = first.setdefault(int(classes[label]), label)
            confidences[place] = confidences[label]
            kept[label] = place == label
        block.repeated.append((int(block.numbers[row]), len(own) - len(first)))
    block.labels = block.labels.where(kept)


def format_rows(names: Sequence[str], labels: Labels) -> bytes:
    """The lines of R rows with these names and labels, as UTF-8, in the format of `format_row`."""
    if len(_LABEL_TEXTS) > CACHED_TEXTS:
        _LABEL_TEXTS.clear()
    keys = (labels.classes + 1j * labels.confidences).tolist()
    texts = list(map(_LABEL_TEXTS.__getitem__, keys))
    lines = []
    for name, (start, stop) in zip(names, pairwise(labels.offsets.tolist()), strict=True):
        # Without labels, a trailing tab marks the end of a name that holds a blank.
        end = "".join(texts[start:stop]) or ("\t" if " " in name else "")
        lines.append(f"{name}{end}\n")
    return "".join(lines).encode()


class _LabelTexts(dict):
    """Label texts with a leading tab, by `class + confidence * 1j`, a faster key than a pair."""

    def __missing__(self, key: complex) -> str:
        text = self[key] = format_row(Row("x", (int(key.real),), (key.imag,)))[1:]
        return text


_LABEL_TEXTS = _LabelTexts()


class ChunkResult(Protocol):
    """The result of a job for a chunk: at least its number of lines, and the refused ones."""

    lines: int
    problems: list[tuple[int, str]]


Result = TypeVar("Result", bound=ChunkResult)


def over_list(
    path: str | os.PathLike,
    job: Callable[[Any], Result],
    processes: int,
    extras: Iterable | None = None,
) -> Iterator[tuple[Result, int, Chunk]]:
    """Runs a job on each chunk of a list in parallel, and shows the progress.

    Args:
        job: called with a chunk, or with (chunk, extra), in a worker process; picklable.
        processes: number of worker processes; 1 runs the job in this process.
        extras: one extra argument per chunk.

    Yields:
        for each chunk in order: the job's result, the number of lines before it, and the chunk.

    Raises:
        ListError: see `chunks`.
    """
    pieces = list(chunks(path))
    work = pieces if extras is None else zip(pieces, extras, strict=True)
    lines = 0
    size = sum(chunk.size for chunk in pieces)
    with Progress(os.path.basename(path), size, "B") as progress:
        for chunk, result in zip(pieces, ordered_map(job, work, processes), strict=True):
            yield result, lines, chunk
            lines += result.lines
            progress.update(chunk.size)


class Refused:
    """Counts refused lines and keeps the first `examples` of them, as `path:line: reason`."""

    def __init__(self, path: str | os.PathLike, examples: int = 5):
        self.count = 0
        self.first: list[str] = []
        self._path = os.fspath(path)
        self._examples = examples

    def add(self, problems: list[tuple[int, str]], lines_before: int) -> None:
        """Adds the problems of a chunk that `lines_before` lines of the list precede."""
        self.count += len(problems)
        room = self._examples - len(self.first)
        for line, reason in problems[:room]:
            self.first.append(f"{self._path}:{lines_before + line + 1}: {reason}")

    def report(self) -> None:
        """Prints the number of refused lines, and the first of them, to standard error."""
        if self.count:
            print(f"{self.count} lines refused, the first of them:", file=sys.stderr)
            print("\n".join(self.first), file=sys.stderr)
