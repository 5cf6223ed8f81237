"""Rewrites the labels of a list: maps classes, adds ancestors and co-occurring labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
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
from data.lists.hierarchy import Hierarchy
from data.lists.rows import Chunk


class Translated(NamedTuple):
    """Rows of a list, their labels in our classes, and how many labels were dropped."""

    block: Block
    labels: Labels
    dropped: int

    @property
    def lines(self) -> int:
        return self.block.lines

    @property
    def problems(self) -> list[tuple[int, str]]:
        return self.block.problems


@dataclass(frozen=True)
class LabelMapping:
    """What the labels of a list mean: `mapping` int32 from their class to ours, -1 to drop it.

    With `index_of_id` the list's labels are ids, replaced by our indices before they are mapped.
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
        labels = remap(block.labels, self.mapping)
        return Translated(block, labels, dropped + len(block.labels.classes) - len(labels.classes))


@dataclass
class Totals:
    """What became of a list. `rows` = `rows_written` + `rows_unlabeled`; refused lines are none."""

    rows: int = 0
    rows_written: int = 0
    rows_unlabeled: int = 0
    labels: int = 0
    labels_dropped: int = 0
    labels_repeated: int = 0
    labels_written: int = 0

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

    label_mapping: LabelMapping
    expansion: Expansion
    keep_unlabeled: bool = False

    def __call__(self, chunk: Chunk) -> _Annotated:
        block, labels, dropped = self.label_mapping.read(chunk)
        kept_labels = len(labels.classes)
        repeated = sum(count for _, count in block.repeated)
        labels = expand(labels, self.expansion)
        labeled = np.diff(labels.offsets) > 0
        kept = np.ones(len(block), bool) if self.keep_unlabeled else labeled
        totals = Totals(
            rows=len(block),
            rows_written=int(kept.sum()),
            rows_unlabeled=int((~kept).sum()),
            labels=kept_labels + dropped + repeated,
            labels_dropped=dropped,
            labels_repeated=repeated,
            labels_written=len(labels.classes),
        )
        text = format_rows(list(compress(block.names, kept)), labels.of_rows(kept))
        return _Annotated(text, totals, block.lines, block.problems)


def annotate(
    list_path: str | os.PathLike, output: str | os.PathLike, annotator: Annotator, processes: int
) -> tuple[Totals, Refused]:
    """Writes the list with the annotator's labels; lines that cannot be read are left out, counted.

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
    list_path: str | os.PathLike, label_mapping: LabelMapping, expansion: Expansion
) -> Iterator[tuple[Block, Labels]]:
    """The rows that `annotate` would write, unlabeled ones included, with their labels."""
    for translated, _, _ in over_list(list_path, label_mapping.read, processes=1):
        yield translated.block, expand(translated.labels, expansion)


class Expansion(NamedTuple):
    """What each class c of 0..C-1 implies: `members[offsets[c]:offsets[c + 1]]`.

    `offsets` int64 [C + 1], `members` int32: c itself comes first. `by_pair` bool: the member was
    found to go together with c and is no ancestor of it.
    """

    offsets: np.ndarray
    members: np.ndarray
    by_pair: np.ndarray

    @classmethod
    def of(
        cls, hierarchy: Hierarchy, ancestors: bool, pairs: Iterable[tuple[int, int]] = ()
    ) -> Expansion:
        """The expansions of ancestors and of pairs (class, label that goes together with it).

        With `ancestors`, a class also has the pairs of its ancestors, because its images are
        images of them, and the ancestors of what it is paired with. Pairs of what a pair added
        are not followed: the paper counts and adds once.
        """
        partners: dict[int, list[int]] = {}
        for c, label in pairs:
            partners.setdefault(c, []).append(label)

        def upwards(c: int) -> list[int]:
            return [c, *hierarchy.ancestors(c)] if ancestors else [c]

        sizes, members, by_pair = [], [], []
        for c in range(len(hierarchy)):
            own = upwards(c)
            added = [up for a in own for label in partners.get(a, []) for up in upwards(label)]
            implied = dict.fromkeys(own + added)
            sizes.append(len(implied))
            members.extend(implied)
            by_pair.extend([False] * len(own) + [True] * (len(implied) - len(own)))
        offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        return cls(offsets, np.array(members, np.int32), np.array(by_pair, bool))


def expand(labels: Labels, expansion: Expansion) -> Labels:
    """The labels with all that they imply, each class once, the highest class index first.

    An implied label has the highest confidence among its own and those of the labels that imply it
    (spec section 1). Ours, where the paper is silent: confidence 0 implies nothing; -1 (unknown)
    makes an ancestor that has no label unknown too, so that it is masked rather than learnt as
    absent, and implies nothing by a pair. Falling indices show the most specific class first, as
    the released lists do.

    Args:
        labels: with classes in 0..C-1.
    """
    levels = np.unique(labels.confidences)
    first = expansion.offsets[labels.classes]
    sizes = expansion.offsets[labels.classes + 1] - first
    owner = np.repeat(np.arange(len(first)), sizes)
    step = np.arange(len(owner)) - (np.cumsum(sizes) - sizes)[owner]
    entry = first[owner] + step
    value = labels.confidences[owner]
    holds = (step == 0) | (value > 0) | ((value < 0) & ~expansion.by_pair[entry])
    owner, entry = owner[holds], entry[holds]
    # Sorted keys (row, class, confidence) end each group of a row and class with its maximum.
    level_bits = len(levels).bit_length()
    class_bits = len(expansion.offsets).bit_length()
    last_class = (1 << class_bits) - 1
    key = labels.rows[owner] << class_bits
    key |= last_class - expansion.members[entry]
    key <<= level_bits
    key |= np.searchsorted(levels, labels.confidences)[owner]
    key.sort()
    group = key >> level_bits
    highest = np.append(group[1:] != group[:-1], True)[: len(group)]
    group, level = group[highest], key[highest] & ((1 << level_bits) - 1)
    counts = np.bincount(group >> class_bits, minlength=len(labels.offsets) - 1)
    classes = (last_class - (group & last_class)).astype(np.int32)
    return Labels(np.concatenate([[0], np.cumsum(counts)]), classes, levels[level])


def remap(labels: Labels, mapping: np.ndarray) -> Labels:
    """The labels with class c become `mapping[c]`; those mapped to -1 or not at all are dropped."""
    known = labels.classes < len(mapping)
    classes = np.where(known, mapping[np.where(known, labels.classes, 0)], -1).astype(np.int32)
    return labels._replace(classes=classes).where(classes >= 0)


def indices_for_ids(text: bytes, index_of_id: Mapping[bytes, bytes]) -> tuple[bytes, int]:
    """List lines whose labels are `id:confidence` with class indices in their place.

    Returns:
        the lines, and how many labels were dropped because their id is unknown.
    """
    lines, dropped = [], 0
    for line in text.split(b"\n"):
        name, tab, tail = line.partition(b"\t")
        if not tab:
            name, _, tail = line.strip().partition(b" ")
        fields = [name]
        for label in tail.split():
            identity, colon, confidence = label.rpartition(b":")
            index = index_of_id.get(identity if colon else label)
            if index is None:
                dropped += 1
            else:
                fields.append(index + colon + confidence if colon else index)
        lines.append(b"\t".join(fields))
    return b"\n".join(lines), dropped
