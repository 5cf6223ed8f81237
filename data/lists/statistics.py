"""Statistics of a list: counts by class and source, checks, and files with tables and plots."""

from __future__ import annotations

import bisect
import csv
import io
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.common.errors import UserError
from data.common.files import atomic_write
from data.common.html_report import panels, write_figure
from data.lists.blocks import Block, Labels, over_list, read_block
from data.lists.hierarchy import NO_PARENT, Hierarchy
from data.lists.rows import Chunk
from data.lists.selection import SOURCES, sources

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHECKS = {
    "format": "lines that are not rows of a list",
    "confidence": "confidences that are neither in 0..1 nor -1",
    "class": "classes that are not in the dictionary",
    "repeated_class": "labels overridden by a later label of the same class in their row",
    "untagged": "rows without a label above 0",
    "ancestor": "labels above 0 whose parent is not among the labels of their row",
    "parent_confidence": "labels with a higher confidence than their parent",
    "duplicate": "rows whose image is in an earlier row",
    "overlap": "rows of the second list whose image is in the first list",
}
"""What each check counts."""

LABELS_LIMIT = 4096
"""Images with more labels than this are counted as having this many."""


@dataclass
class Findings:
    """Number of findings by check, and the first few: (line number from 0, message)."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CHECKS, 0))
    examples: dict[str, list[tuple[int, str]]] = field(
        default_factory=lambda: {check: [] for check in CHECKS}
    )

    def add(self, check: str, count: int, examples: list[tuple[int, str]]) -> None:
        """Adds `count` findings of a check, with examples of them."""
        self.counts[check] += count
        self.examples[check] += examples

    def merge(self, other: Findings, lines_before: int, most: int) -> None:
        """Adds the findings of the next chunk; keeps at most `most` examples per check."""
        for check, examples in other.examples.items():
            room = max(0, most - len(self.examples[check]))
            moved = [(lines_before + line, text) for line, text in examples[:room]]
            self.add(check, other.counts[check], moved)


@dataclass
class ListStatistics:
    """Counts of a list, with S = len(SOURCES) and C classes.

    A label counts as an annotation if its confidence is above 0.

    Attributes:
        path: the list.
        images: int64 [S], images by source.
        class_images: int64 [S, C], images by source and class.
        images_by_labels: int64 [LABELS_LIMIT + 1], images by their number of labels.
        unknown: number of labels with confidence -1.
        denied: number of labels with confidence 0.
        hashes: uint64 [rows], hashes of the image names in order.
        findings: results of the checks.
        places: (rows before it, lines before it, chunk) of each chunk.
    """

    path: str
    images: np.ndarray
    class_images: np.ndarray
    images_by_labels: np.ndarray
    unknown: int = 0
    denied: int = 0
    hashes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    findings: Findings = field(default_factory=Findings)
    places: list[tuple[int, int, Chunk]] = field(default_factory=list)

    @classmethod
    def empty(cls, path: str | os.PathLike, class_num: int) -> ListStatistics:
        """Statistics of zero rows."""
        return cls(
            os.fspath(path),
            np.zeros(len(SOURCES), np.int64),
            np.zeros((len(SOURCES), class_num), np.int64),
            np.zeros(LABELS_LIMIT + 1, np.int64),
        )

    @property
    def rows(self) -> int:
        return int(self.images.sum())

    @property
    def labels(self) -> int:
        return int(self.class_images.sum())

    def locate(self, row: int) -> tuple[int, str]:
        """The (line number from 0, image name) of a row; rereads its chunk."""
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
        labels = block.labels.where(block.labels.confidences > 0)
        counts.images[:] = np.bincount(source, minlength=len(SOURCES))
        keys = source[labels.rows].astype(np.int64) * class_num + labels.classes
        counts.class_images[:] = np.bincount(keys, minlength=len(SOURCES) * class_num).reshape(
            len(SOURCES), class_num
        )
        per_image = np.minimum(np.diff(labels.offsets), LABELS_LIMIT)
        counts.images_by_labels[:] = np.bincount(per_image, minlength=LABELS_LIMIT + 1)
        counts.unknown = int((block.labels.confidences < 0).sum())
        counts.denied = int((block.labels.confidences == 0).sum())
        counts.hashes = name_hashes(block)
        counts.findings = check_block(block, self.parents, self.examples)
        return _ChunkCounts(counts, block.lines)


def count_list(
    path: str | os.PathLike, hierarchy: Hierarchy, examples: int, processes: int
) -> ListStatistics:
    """Counts a list, checks its rows, and finds images that occur twice.

    Memory: at most 40 bytes per row, and 0.3 GB per process.

    Args:
        examples: number of examples kept per check.
        processes: number of worker processes.

    Raises:
        ListError: see `chunks`; malformed rows are findings instead.
    """
    total = ListStatistics.empty(path, len(hierarchy))
    hashes: list[np.ndarray] = []
    for result, lines, chunk in over_list(path, _Job(hierarchy.parents, examples), processes):
        counts = result.counts
        for name in ("images", "class_images", "images_by_labels"):
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
    order = np.argsort(hashes, kind="stable")  # stable: the first row of equal hashes comes first
    ordered = hashes[order]
    repeats = order[1:][ordered[1:] == ordered[:-1]]
    repeats.sort()
    examples = []
    for row in repeats[:most].tolist():  # not all: `locate` parses a chunk each time
        line, name = total.locate(row)
        first, _ = total.locate(int(np.argmax(hashes == hashes[row])))
        examples.append((line, f"{name}: as line {first + 1}"))
    total.findings.add("duplicate", len(repeats), examples)


def find_overlap(first: ListStatistics, second: ListStatistics, most: int) -> None:
    """Adds the second list's images that are in the first to its findings, `most` as examples."""
    shared = np.flatnonzero(_contains(np.sort(first.hashes), second.hashes))
    examples = [second.locate(row) for row in shared[:most].tolist()]
    second.findings.add("overlap", len(shared), examples)


def _contains(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """bool [values]: whether each value is in the sorted array `ordered`."""
    if not len(ordered):
        return np.zeros(len(values), bool)
    at = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return ordered[at] == values


def check_block(block: Block, parents: np.ndarray, most: int) -> Findings:
    """Runs all checks that look at one row at a time.

    Args:
        parents: int32 [C], the parent of each class, NO_PARENT for a root.
        most: number of examples kept per check.
    """
    findings = Findings()
    for line, reason in block.problems:
        words = reason.split()[0]
        check = words if words in ("confidence", "class") else "format"
        room = len(findings.examples[check]) < most
        findings.add(check, 1, [(line, reason)] if room else [])
    examples = [(line, f"{count} repeated") for line, count in block.repeated[:most]]
    findings.add("repeated_class", sum(count for _, count in block.repeated), examples)

    labels = block.labels.where(block.labels.confidences > 0)
    unlabeled = np.flatnonzero(np.diff(labels.offsets) == 0)
    findings.add(
        "untagged", len(unlabeled), [(_line(block, r), block.names[r]) for r in unlabeled[:most]]
    )
    for check, wrong, parent_text in _against_parents(block.labels, parents):
        rows = block.labels.rows[wrong[:most]]
        classes = block.labels.classes[wrong[:most]]
        examples = [
            (_line(block, r), f"{block.names[r]}: class {c} {parent_text} {parents[c]}")
            for r, c in zip(rows.tolist(), classes.tolist(), strict=True)
        ]
        findings.add(check, len(wrong), examples)
    return findings


def _line(block: Block, row: int) -> int:
    return int(block.numbers[row])


def _against_parents(labels: Labels, parents: np.ndarray) -> list[tuple[str, np.ndarray, str]]:
    """Checks labels against their parents: (check, indices of wrong labels, words of message)."""
    row_keys = labels.rows << 32
    keys = row_keys | labels.classes
    order = np.argsort(keys)
    parent = parents[labels.classes]
    above = np.flatnonzero((labels.confidences > 0) & (parent != NO_PARENT))
    wanted = row_keys[above] | parent[above]
    found = np.minimum(np.searchsorted(keys, wanted, sorter=order), max(0, len(keys) - 1))
    at = order[found] if len(order) else found
    present = keys[at] == wanted
    higher = labels.confidences[above] > labels.confidences[at]
    return [
        ("ancestor", above[~present], "without its parent"),
        ("parent_confidence", above[present & higher], "above its parent"),
    ]


def name_hashes(block: Block) -> np.ndarray:
    """uint64 [R]: a hash of each image name; two names collide with probability 2^-64."""
    digests = [blake2b(name.encode(), digest_size=8).digest() for name in block.names]
    return np.frombuffer(b"".join(digests), np.uint64)


def table(
    hierarchy: Hierarchy, train: ListStatistics, val: ListStatistics | None, min_images: int
) -> list[tuple[str, str]]:
    """The table of the data set: (fact, value), in the order of spec section 1.

    Only labels with a confidence above 0 count. The mean number of images per class is the number
    of training labels divided by the number of classes; a class is trainable with more than
    `min_images` training images.
    """
    per_class = train.class_images.sum(0)
    rows = [("train images", f"{train.rows:,}")]
    if val is not None:
        rows.append(("val images", f"{val.rows:,}"))
    for source, name in enumerate(SOURCES):
        classes = np.count_nonzero(train.class_images[source])
        rows.append((f"{name}: train images", f"{train.images[source]:,}"))
        rows.append((f"{name}: classes in train", f"{classes:,}"))
        if val is not None:
            rows.append((f"{name}: val images", f"{val.images[source]:,}"))
    roots = ", ".join(hierarchy.names[root] for root in hierarchy.roots)
    return [
        *rows,
        ("classes", f"{len(hierarchy):,}"),
        ("classes with a train image", f"{np.count_nonzero(per_class):,}"),
        (f"trainable classes (over {min_images})", f"{np.sum(per_class > min_images):,}"),
        ("labels per train image (mean)", f"{train.labels / max(1, train.rows):.2f}"),
        ("train images per class (mean)", f"{per_class.mean():,.0f}"),
        ("unknown labels (confidence -1)", f"{train.unknown:,}"),
        ("denied labels (confidence 0)", f"{train.denied:,}"),
        ("trees of the hierarchy", f"{len(hierarchy.roots)} ({roots})"),
        ("longest path, edges", f"{hierarchy.depths.max()}"),
        ("mean path, edges", f"{hierarchy.depths.mean():.2f}"),
    ]


def write_files(
    folder: Path,
    hierarchy: Hierarchy,
    lists: dict[str, ListStatistics],
    min_images: int,
) -> list[Path]:
    """Writes CSV files and plots of images per class and labels per image; returns their paths.

    Lists without labels are not plotted; without Matplotlib, nothing is.

    Args:
        lists: the lists by role (train, val), train first.
        min_images: see `table`.
    """
    tables = {"images_per_class.csv": _class_rows(hierarchy, lists)}
    tables["tags_per_image.csv"] = _label_rows(lists)
    for name, rows in tables.items():
        atomic_write(folder / name, _csv(rows))
    plotted = {role: statistics for role, statistics in lists.items() if statistics.labels}
    figures = {}
    try:
        if plotted:
            figures["images_per_class.png"] = _plot_classes(plotted, min_images)
            figures["tags_per_image.png"] = _plot_labels(plotted)
    except UserError as error:  # no Matplotlib: the CSV files are written anyway
        print(error, file=sys.stderr)
    for name, figure in figures.items():
        write_figure(folder / name, figure)
    return [folder / name for name in (*tables, *figures)]


def _csv(rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _class_rows(
    hierarchy: Hierarchy, lists: dict[str, ListStatistics]
) -> Iterable[Iterable[object]]:
    yield [
        *("class", "id", "name", "parent", "depth"),
        *(f"{role} images" for role in lists),
        *(f"{role} images of {source}" for role in lists for source in SOURCES),
    ]
    totals = [statistics.class_images.sum(0).tolist() for statistics in lists.values()]
    parts = [part.tolist() for statistics in lists.values() for part in statistics.class_images]
    known = (hierarchy.ids, hierarchy.names, hierarchy.parents.tolist(), hierarchy.depths.tolist())
    yield from zip(range(len(hierarchy)), *known, *totals, *parts, strict=True)


def _label_rows(lists: dict[str, ListStatistics]) -> Iterable[Iterable[object]]:
    yield ["tags", *(f"{role} images" for role in lists)]
    counts = [_shown(statistics) for statistics in lists.values()]
    longest = max(map(len, counts))
    padded = [np.pad(count, (0, longest - len(count))).tolist() for count in counts]
    yield from zip(range(longest), *padded, strict=True)


def _shown(statistics: ListStatistics) -> np.ndarray:
    """int64: number of images by their number of labels, up to the largest that occurs."""
    return np.trim_zeros(statistics.images_by_labels, "b")


def _plot_classes(lists: dict[str, ListStatistics], min_images: int) -> Figure:
    """Plots images per class, from the most to the least frequent, on logarithmic axes."""
    figure, (axis,) = panels(1)
    for role, statistics in lists.items():
        images = np.sort(statistics.class_images.sum(0))[::-1]
        images = images[images > 0]
        axis.plot(np.arange(1, len(images) + 1), images, label=f"{role}: {len(images):,} classes")
    axis.axhline(min_images, color="gray", linestyle="--", linewidth=1)
    axis.annotate(
        f"trainable: over {min_images}", (1, min_images), (4, 3), textcoords="offset points"
    )
    axis.set(
        xscale="log", yscale="log", title="Images per class",
        xlabel="class, from the most to the least frequent", ylabel="images of the class",
    )  # fmt: skip
    axis.legend()
    return figure


def _plot_labels(lists: dict[str, ListStatistics]) -> Figure:
    """Plots images by number of labels, on a logarithmic vertical axis."""
    figure, axes = panels(len(lists))
    for axis, (role, statistics) in zip(axes, lists.items(), strict=True):
        images = _shown(statistics)
        mean = statistics.labels / max(1, statistics.rows)
        axis.stairs(images, np.arange(len(images) + 1) - 0.5, fill=True)
        axis.axvline(mean, color="black", linestyle="--", linewidth=1, label=f"mean {mean:.2f}")
        axis.set_title(f"Annotations per image: {role}, {statistics.rows:,} images")
        axis.set(yscale="log", ylim=(0.7, None), xlabel="annotations of an image", ylabel="images")
        axis.legend()
    return figure
