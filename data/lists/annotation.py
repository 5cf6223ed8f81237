"""Rewrites the labels of a list: maps classes, adds ancestors and co-occurring labels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from itertools import compress
from typing import NamedTuple

import numpy as np

from data.common.files import rewritten
from data.lists.blocks import (
    Block,
    Labels,
    Refused,
    format_rows,
    over_list,
    parse_block,
    read_block,
)
from data.lists.label_expansion import Implication, imply, remap
from data.lists.label_mapping import indices_for_ids
from data.lists.rows import Chunk


class Translated(NamedTuple):
    """Rows of a list, their tags in our classes, and how many tags were dropped."""

    block: Block
    tags: Labels
    dropped: int

    @property
    def lines(self) -> int:
        return self.block.lines

    @property
    def problems(self) -> list[tuple[int, str]]:
        return self.block.problems


@dataclass(frozen=True)
class Vocabulary:
    """What the tags of a list mean: `mapping` int32 from their class to ours, -1 to drop it.

    With `index_of_id` the list's tags are ids, replaced by our indices before they are mapped.
    """

    mapping: np.ndarray
    index_of_id: dict[bytes, bytes] | None = None

    def read(self, chunk: Chunk) -> Translated:
        dropped = 0
        if self.index_of_id is None:
            block = read_block(chunk)
        else:
            text, dropped = indices_for_ids(chunk.read(), self.index_of_id)
            block = parse_block(text)
        tags = remap(block.labels, self.mapping)
        return Translated(block, tags, dropped + len(block.labels.classes) - len(tags.classes))


@dataclass
class Totals:
    """What became of a list. `rows` = `rows_written` + `rows_untagged`; refused lines are none."""

    rows: int = 0
    rows_written: int = 0
    rows_untagged: int = 0
    tags: int = 0
    tags_dropped: int = 0
    tags_repeated: int = 0
    tags_written: int = 0

    def add(self, other: Totals) -> None:
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


@dataclass
class _Annotated:
    text: bytes
    totals: Totals
    lines: int
    problems: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Annotator:
    """The job for one chunk of a list."""

    vocabulary: Vocabulary
    implication: Implication
    keep_untagged: bool = False

    def __call__(self, chunk: Chunk) -> _Annotated:
        block, tags, dropped = self.vocabulary.read(chunk)
        kept_tags = len(tags.classes)
        repeated = sum(count for _, count in block.repeated)
        tags = imply(tags, self.implication)
        tagged = np.diff(tags.offsets) > 0
        kept = np.ones(len(block), bool) if self.keep_untagged else tagged
        totals = Totals(
            rows=len(block),
            rows_written=int(kept.sum()),
            rows_untagged=int((~kept).sum()),
            tags=kept_tags + dropped + repeated,
            tags_dropped=dropped,
            tags_repeated=repeated,
            tags_written=len(tags.classes),
        )
        text = format_rows(list(compress(block.names, kept)), tags.of_rows(kept))
        return _Annotated(text, totals, block.lines, block.problems)


def annotate(
    list_path: str | os.PathLike, output: str | os.PathLike, annotator: Annotator, processes: int
) -> tuple[Totals, Refused]:
    """Writes the list with the annotator's tags; lines that cannot be read are left out, counted.

    The output appears under its name when it is whole, and is the same for any number of processes.
    """
    totals, refused = Totals(), Refused(list_path)
    with rewritten(output) as file:
        for result, lines_before, _ in over_list(list_path, annotator, processes):
            file.write(result.text)
            totals.add(result.totals)
            refused.add(result.problems, lines_before)
    return totals, refused


def annotated_blocks(
    list_path: str | os.PathLike, vocabulary: Vocabulary, implication: Implication
) -> Iterator[tuple[Block, Labels]]:
    """The rows that `annotate` would write, untagged ones included, with their tags."""
    for translated, _, _ in over_list(list_path, vocabulary.read, processes=1):
        yield translated.block, imply(translated.tags, implication)
