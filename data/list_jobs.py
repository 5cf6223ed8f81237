"""A pass over a whole list, chunk by chunk in processes: results in order, progress shown."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from tqdm import tqdm

from data.list_blocks import Chunk, chunks
from data.parallel import ordered_map


class ChunkResult(Protocol):
    """What a job makes of a chunk."""

    lines: int
    problems: list[tuple[int, str]]


Result = TypeVar("Result", bound=ChunkResult)


def over_list(
    path: str | os.PathLike, job: Callable[[Chunk], Result], processes: int
) -> Iterator[tuple[Result, int]]:
    """Each chunk's result in order, with the number of lines of the list before that chunk.

    Args:
        job: picklable; called in the worker processes.
    """
    pieces = list(chunks(path))
    lines = 0
    with tqdm(
        total=sum(chunk.size for chunk in pieces),
        desc=os.path.basename(path),
        unit="B",
        unit_scale=True,
        disable=None,
    ) as bar:
        for chunk, result in zip(pieces, ordered_map(job, pieces, processes), strict=True):
            yield result, lines
            lines += result.lines
            bar.update(chunk.size)


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
