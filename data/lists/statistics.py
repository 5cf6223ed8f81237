"""Counts images and labels of a whole list by class and source."""

from __future__ import annotations

import bisect
import os
from dataclasses import dataclass, field

import numpy as np

from data.lists.blocks import over_list, read_block
from data.lists.checks import Findings, check_block, name_hashes
from data.lists.hierarchy import Hierarchy
from data.lists.rows import Chunk
from data.lists.sources import SOURCES, sources

TAGS_LIMIT = 4096
"""Images with more tags than this are counted as having this many."""


@dataclass
class ListStatistics:
    """Counts of a list, with S = len(SOURCES) and C classes.

    A tag annotates its image when its confidence is above 0. `images` int64 [S], `class_images`
    int64 [S, C], `images_by_tags` int64 [TAGS_LIMIT + 1]; `unknown` tags have confidence -1,
    `denied` ones 0. `hashes` uint64 [rows] of the image names, in order; `places` are the chunks
    with the rows and lines before each.
    """

    path: str
    images: np.ndarray
    class_images: np.ndarray
    images_by_tags: np.ndarray
    unknown: int = 0
    denied: int = 0
    hashes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    findings: Findings = field(default_factory=Findings)
    places: list[tuple[int, int, Chunk]] = field(default_factory=list)

    @classmethod
    def empty(cls, path: str | os.PathLike, class_num: int) -> ListStatistics:
        return cls(
            os.fspath(path),
            np.zeros(len(SOURCES), np.int64),
            np.zeros((len(SOURCES), class_num), np.int64),
            np.zeros(TAGS_LIMIT + 1, np.int64),
        )

    @property
    def rows(self) -> int:
        return int(self.images.sum())

    @property
    def tags(self) -> int:
        return int(self.class_images.sum())

    def locate(self, row: int) -> tuple[int, str]:
        """(lines before, image name) of a row; reads its chunk again."""
        rows_before, lines_before, chunk = self.places[
            bisect.bisect_right(self.places, row, key=lambda place: place[0]) - 1
        ]
        block = read_block(chunk, self.class_images.shape[1])
        return lines_before + int(block.numbers[row - rows_before]), block.names[row - rows_before]


@dataclass
class _ChunkCounts:
    counts: ListStatistics
    lines: int
    problems: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Job:
    """Counts one chunk."""

    parents: np.ndarray
    examples: int

    def __call__(self, chunk: Chunk) -> _ChunkCounts:
        class_num = len(self.parents)
        block = read_block(chunk, class_num)
        counts = ListStatistics.empty(chunk.path, class_num)
        source = sources(block)
        tags = block.labels.where(block.labels.confidences > 0)
        counts.images[:] = np.bincount(source, minlength=len(SOURCES))
        keys = source[tags.rows].astype(np.int64) * class_num + tags.classes
        counts.class_images[:] = np.bincount(keys, minlength=len(SOURCES) * class_num).reshape(
            len(SOURCES), class_num
        )
        per_image = np.minimum(np.diff(tags.offsets), TAGS_LIMIT)
        counts.images_by_tags[:] = np.bincount(per_image, minlength=TAGS_LIMIT + 1)
        counts.unknown = int((block.labels.confidences < 0).sum())
        counts.denied = int((block.labels.confidences == 0).sum())
        counts.hashes = name_hashes(block)
        counts.findings = check_block(block, self.parents, self.examples)
        return _ChunkCounts(counts, block.lines)


def count_list(
    path: str | os.PathLike, hierarchy: Hierarchy, examples: int, processes: int
) -> ListStatistics:
    """Counts a list and checks its rows, and images that occur twice.

    Memory: at most 40 bytes per row, and 0.3 GB per process.

    Args:
        examples: how many of each finding are kept.
    """
    total = ListStatistics.empty(path, len(hierarchy))
    hashes: list[np.ndarray] = []
    for result, lines, chunk in over_list(path, _Job(hierarchy.parents, examples), processes):
        counts = result.counts
        for name in ("images", "class_images", "images_by_tags"):
            getattr(total, name).__iadd__(getattr(counts, name))
        total.unknown += counts.unknown
        total.denied += counts.denied
        total.findings.merge(counts.findings, lines, examples)
        total.places.append((sum(map(len, hashes)), lines, chunk))
        hashes.append(counts.hashes)
    total.hashes = np.concatenate([total.hashes, *hashes])
    _find_duplicates(total, examples)
    return total


def _find_duplicates(total: ListStatistics, most: int) -> None:
    hashes = total.hashes
    order = np.argsort(hashes, kind="stable")  # equal ones stay in order, so the first comes first
    ordered = hashes[order]
    repeats = order[1:][ordered[1:] == ordered[:-1]]
    repeats.sort()
    examples = []
    for row in repeats[:most].tolist():  # to locate all would parse the list once per row
        line, name = total.locate(row)
        first, _ = total.locate(int(np.argmax(hashes == hashes[row])))
        examples.append((line, f"{name}: as line {first + 1}"))
    total.findings.add("duplicate", len(repeats), examples)


def find_overlap(first: ListStatistics, second: ListStatistics, most: int) -> None:
    """Adds to the findings of the second list its images that the first list has."""
    shared = np.flatnonzero(_contains(np.sort(first.hashes), second.hashes))
    examples = [second.locate(row) for row in shared[:most].tolist()]
    second.findings.add("overlap", len(shared), examples)


def _contains(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """bool: which values occur among the ordered ones."""
    if not len(ordered):
        return np.zeros(len(values), bool)
    at = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return ordered[at] == values
