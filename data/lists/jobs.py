"""Runs a function over a whole list in chunks, in parallel, in order."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

from data.common.parallel import ordered_map
from data.common.progress import Progress
from data.lists.blocks import Chunk, chunks


class ChunkResult(Protocol):
    """What a job makes of a chunk."""

    lines: int
    problems: list[tuple[int, str]]


Result = TypeVar("Result", bound=ChunkResult)


def over_list(
    path: str | os.PathLike,
    job: Callable[[Any], Result],
    processes: int,
    extras: Iterable | None = None,
) -> Iterator[tuple[Result, int, Chunk]]:
    """Each chunk's result in order, the number of lines of the list before it, and the chunk.

    Args:
        job: of a chunk, or of (chunk, extra); picklable, called in the worker processes.
        extras: something for each chunk.
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
    """Counts refused lines and keeps the first of them, as `path:line: reason`."""

    def __init__(self, path: str | os.PathLike, examples: int = 5):
        self.count = 0
        self.first: list[str] = []
        self._path = os.fspath(path)
        self._examples = examples

    def add(self, problems: list[tuple[int, str]], lines_before: int) -> None:
        self.count += len(problems)
        room = self._examples - len(self.first)
        for line, reason in problems[:room]:
            self.first.append(f"{self._path}:{lines_before + line + 1}: {reason}")

    def report(self) -> None:
        """Tells a person, on the standard error stream."""
        if self.count:
            print(f"{self.count} lines refused, the first of them:", file=sys.stderr)
            print("\n".join(self.first), file=sys.stderr)
