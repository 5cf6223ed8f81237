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
    """Rows of a list, their labels mapped to our classes, and the number of dropped labels."""

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
    """Maps the labels of a list to our classes.

    Attributes:
        mapping: int32, our class for each class of the list; -1 drops the label.
        index_of_id: if given, the list's labels are ids, which are replaced by these class indices
            before `mapping` is applied.
    """

    mapping: np.ndarray
    index_of_id: dict[bytes, bytes] | None = None

    def read(self, chunk: Chunk) -> Translated:
        """Reads a chunk and maps its labels."""
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
    """Counts of an annotated list, without refused lines; rows = rows_written + rows_unlabeled."""

    rows: int = 0
    rows_written: int = 0
    rows_unlabeled: int = 0
    labels: int = 0
    labels_dropped: int = 0
    labels_repeated: int = 0
    labels_written: int = 0

    def add(self, other: Totals) -> None:
        """Adds all counts of `other`."""
        for count in fields(self):
            setattr(self, count.name, getattr(self, count.name) + getattr(other, count.name))


@dataclass
class _Annotated:
    text: bytes
    totals: Totals
    lines: int
    problems: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Annotator:
    """Maps and expands the labels of a chunk, see `annotate`.

    Attributes:
        label_mapping: maps labels to our classes.
        expansion: the labels that each class implies.
        keep_unlabeled: keep rows that end up without a label.
    """

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
    """Writes a list with new labels; malformed lines are left out and counted.

    The output is written atomically, and is the same for any number of processes.

    Returns:
        counts of rows and labels, and the refused lines.
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
    """The rows that `annotate` would write (including unlabeled ones), with their new labels."""
    for translated, _, _ in over_list(list_path, label_mapping.read, processes=1):
        yield translated.block, expand(translated.labels, expansion)


class Expansion(NamedTuple):
    """The labels that each class implies: class c implies `members[offsets[c]:offsets[c + 1]]`.

    Attributes:
        offsets: int64 [C + 1].
        members: int32 [M]; c itself comes first.
        by_pair: bool [M]; whether the member is implied by co-occurrence, not as an ancestor.
    """

    offsets: np.ndarray
    members: np.ndarray
    by_pair: np.ndarray

    @classmethod
    def of(
        cls, hierarchy: Hierarchy, ancestors: bool, pairs: Iterable[tuple[int, int]] = ()
    ) -> Expansion:
        """The expansion by ancestors and by pairs (class, co-occurring label).

        With `ancestors`, a class also implies the labels paired with its ancestors, because its
        images are images of them, too, and the ancestors of its paired labels. Labels that a pair
        adds do not bring in their own pairs: the paper counts and adds once.
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
    """Adds all implied labels; each class occurs once per row, the highest class index first.

    The confidence of an implied label is the maximum of its own and those of the labels that imply
    it (spec section 1). The paper does not say the rest; we decided that confidence 0 implies
    nothing, and that -1 (unknown) makes an ancestor without a label unknown, too, so that it is
    masked rather than learned as absent, but implies nothing by a pair. Descending indices put the
    most specific class first, as in the released lists.

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
    # With keys sorted by (row, class, confidence), each (row, class) group ends with its maximum.
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
    """Labels with class `mapping[c]` for class c; drops labels mapped to -1 or beyond `mapping`."""
    known = labels.classes < len(mapping)
    classes = np.where(known, mapping[np.where(known, labels.classes, 0)], -1).astype(np.int32)
    return labels._replace(classes=classes).where(classes >= 0)


def indices_for_ids(text: bytes, index_of_id: Mapping[bytes, bytes]) -> tuple[bytes, int]:
    """Replaces the ids in list lines with labels `id:confidence` by class indices.

    Args:
        text: lines of a list.
        index_of_id: class index, as text, of each id.

    Returns:
        the lines, and the number of labels dropped because their id is unknown.
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
