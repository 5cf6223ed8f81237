"""Finds repeated images within and across lists, reports them, drops them, merges their labels."""

from __future__ import annotations

import hashlib
import html
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.common import html_report
from data.common.errors import UserError
from data.common.files import atomic_write, rewritten
from data.common.images import ImageError, decoded
from data.common.parallel import ordered_map
from data.common.progress import Progress
from data.input.image_source import LoadError, SourceImage, in_list
from data.lists.blocks import Block, Refused, over_list, read_block
from data.lists.rows import Row, format_row
from data.outputs.feature_files import Table
from data.outputs.neighbors import FeatureRows, keep_first

KEPT, NAME, BYTES, PIXELS, FEATURES = HOW = ("kept", "name", "bytes", "pixels", "features")
"""How an image was found to repeat another."""

HASHES = ("pixels", "bytes", "none")
COLUMNS = ("list", "image", "kept list", "kept image", "similarity", "found by")
THUMBNAIL_SIDE = 160
_IMAGES_AT_ONCE = 32
_PAIR_STYLE = """<style>
  .pair { display: inline-block; border: 1px solid #ddd; padding: .6rem 0 0 .6rem; }
  .pair { margin: 0 .6rem .6rem 0; }
  .pair figure { margin: 0 .6rem .4rem 0; width: 160px; overflow-wrap: anywhere; }
</style>
"""


class Digest(NamedTuple):
    """Hashes of a file and of its pixels (as a viewer shows them), or why there are none."""

    file: bytes = b""
    pixels: bytes = b""
    problem: str = ""


@dataclass
class Listed:
    """The rows of a list, without refused lines.

    Attributes:
        path: the list file.
        images_dir: see `image_source.images`.
        names: the image of each row.
        refused: malformed lines.
    """

    path: Path
    images_dir: str | None
    names: list[str]
    refused: Refused

    @classmethod
    def read(cls, path: Path, images_dir: str | None, processes: int) -> Listed:
        """Reads a list; malformed lines are skipped and counted."""
        listed = cls(path, images_dir, [], Refused(path))
        for block, lines, _ in over_list(path, read_block, processes):
            listed.names += block.names
            listed.refused.add(block.problems, lines)
        return listed

    def image(self, row: int) -> SourceImage:
        return in_list(self.path, self.names[row], self.images_dir)


@dataclass
class Repeats:
    """Which of N rows repeat which; rows are numbered across all lists.

    Attributes:
        lists: in order of precedence: of equal images, the first is kept.
        kept: int64 [N], the kept row that each row repeats; the row itself, if it is kept.
        similarity: float32 [N], cosine of the features; 1 where names, bytes or pixels are equal.
        how: uint8 [N], index into HOW.
        unreadable: (image, reason) of images without a hash.
        without_features: number of rows that are not in any feature table.
    """

    lists: Sequence[Listed]
    kept: np.ndarray
    similarity: np.ndarray
    how: np.ndarray
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    without_features: int = 0

    @classmethod
    def of(cls, lists: Sequence[Listed]) -> Repeats:
        """The initial state: no row repeats another."""
        rows = sum(len(listed.names) for listed in lists)
        return cls(lists, np.arange(rows), np.ones(rows, np.float32), np.zeros(rows, np.uint8))

    @property
    def starts(self) -> list[int]:
        """The first row of each list, and the total number of rows."""
        return np.cumsum([0, *(len(listed.names) for listed in self.lists)]).tolist()

    def place(self, row: int) -> tuple[Listed, int]:
        """The list of a row, and the row's number within it."""
        number = int(np.searchsorted(self.starts[1:], row, side="right"))
        return self.lists[number], row - self.starts[number]

    def dropped_of(self, number: int) -> np.ndarray:
        """The rows of a list that are dropped, int64."""
        start, stop = self.starts[number : number + 2]
        return start + np.flatnonzero(self.how[start:stop])

    def find_same(self, hashed: str, processes: int) -> None:
        """Finds rows with the same image by name, and by a hash of its file or pixels.

        Args:
            hashed: one of HASHES.

        Raises:
            UserError: no image can be read.
        """
        names = [name for listed in self.lists for name in listed.names]
        digests = [Digest()] * len(names)
        if hashed != "none":
            digests = list(_digests(self.lists, hashed == "pixels", processes))
            pairs = zip(names, digests, strict=True)
            self.unreadable = [(name, digest.problem) for name, digest in pairs if digest.problem]
            if names and len(self.unreadable) == len(names):
                name, reason = self.unreadable[0]
                raise UserError(f"no image can be read ({name}: {reason}); give --images FOLDER")
        first: dict[bytes, int] = {}
        for row, (name, digest) in enumerate(zip(names, digests, strict=True)):
            key = digest.pixels or digest.file or name.encode()
            kept = first.setdefault(key, row)
            if kept != row:
                same_file = digest.file == digests[kept].file
                self.kept[row] = kept
                how = NAME if names[kept] == name else BYTES if same_file else PIXELS
                self.how[row] = HOW.index(how)

    def find_near(self, tables: Sequence[Table], threshold: float) -> None:
        """Finds near-duplicates by features among the rows kept so far.

        Args:
            tables: features by image name; a row without features is kept and counted.
            threshold: rows with this cosine or a larger one are near-duplicates.

        Raises:
            UserError: no row has features.
        """
        number_of = {}
        for table_name in (name for table in tables for name in table.names):
            number_of.setdefault(table_name, len(number_of))
        numbers = np.array(list(self._numbers(number_of)), np.int64)
        self.without_features = int((numbers < 0).sum())
        rows = np.flatnonzero((self.how == 0) & (numbers >= 0))
        if not len(rows):
            raise UserError("no image of the lists is in --features; the names must match")
        features = FeatureRows([table.values for table in tables], numbers[rows])
        kept, cosines = keep_first(features, threshold)
        near = kept != np.arange(len(rows))
        self.kept[rows], self.similarity[rows] = rows[kept], cosines
        self.how[rows[near]] = HOW.index(FEATURES)
        # Rows that repeat a row dropped just now are redirected to the row that it repeats.
        moved = np.flatnonzero(self.kept[self.kept] != self.kept)
        self.similarity[moved] = self.similarity[self.kept[moved]]
        self.how[moved], self.kept[moved] = HOW.index(FEATURES), self.kept[self.kept[moved]]

    def _numbers(self, number_of: dict[str, int]) -> Iterator[int]:
        for listed in self.lists:
            for name in listed.names:
                number = number_of.get(name, -1)
                if number < 0 and listed.images_dir:
                    number = number_of.get(os.path.join(listed.images_dir, name), -1)
                yield number

    def lines(self) -> Iterator[tuple[str, str, str, str, str, str]]:
        """The COLUMNS of each dropped row."""
        for row in np.flatnonzero(self.how).tolist():
            (listed, own), (kept_listed, kept) = self.place(row), self.place(int(self.kept[row]))
            names = listed.path.name, listed.names[own], kept_listed.path.name
            similarity = f"{self.similarity[row]:.4f}"
            yield *names, kept_listed.names[kept], similarity, HOW[self.how[row]]

    def near(self) -> int:
        """The number of rows dropped as near-duplicates by features."""
        return int((self.how == HOW.index(FEATURES)).sum())

    def counts(self, number: int) -> str:
        """A one-line summary of the rows of a list that were kept and dropped."""
        start, stop = self.starts[number : number + 2]
        dropped = self.dropped_of(number)
        by = np.bincount(self.how[dropped], minlength=len(HOW)).tolist()
        found = ", ".join(f"{n:,} by {how}" for n, how in zip(by, HOW, strict=True) if n)
        outside = int(((self.kept[dropped] < start) | (self.kept[dropped] >= stop)).sum())
        total, kept = stop - start, stop - start - len(dropped)
        line = f"{self.lists[number].path}: {total:,} rows = {kept:,} kept + {len(dropped):,} left"
        line += f" out{f' ({found})' if found else ''}"
        return line + (f"; {outside:,} of these repeat the other list" if outside else "")


def _digests(lists: Sequence[Listed], pixels: bool, processes: int) -> Iterator[Digest]:
    images = (listed.image(row) for listed in lists for row in range(len(listed.names)))
    batches = iter(lambda: list(islice(images, _IMAGES_AT_ONCE)), [])
    total = sum(len(listed.names) for listed in lists)
    with Progress("hashing", total, "image") as progress:
        for found in ordered_map(partial(_hash_all, pixels=pixels), batches, processes):
            progress.update(len(found))
            yield from found


def _hash_all(images: Iterable[SourceImage], pixels: bool) -> list[Digest]:
    return [_hashed(image, pixels) for image in images]


def _hashed(image: SourceImage, pixels: bool) -> Digest:
    digest = Digest()
    try:
        data = image.load().data
        digest = Digest(hashlib.blake2b(data, digest_size=16).digest())
        if pixels:
            with decoded(data) as shown:
                content = hashlib.blake2b(b"%d %d" % shown.size, digest_size=16)
                content.update(shown.tobytes())
                digest = digest._replace(pixels=content.digest())
        return digest
    except (LoadError, ImageError) as error:
        return digest._replace(problem=str(error))


def write_report(path: Path, repeats: Repeats) -> None:
    """Writes a TSV with COLUMNS for each dropped row."""
    lines = ("\t".join(line) + "\n" for line in (COLUMNS, *repeats.lines()))
    atomic_write(path, "".join(lines))


def write_list(output: Path, repeats: Repeats, number: int, merge_labels: bool) -> int:
    """Writes a list without its dropped rows; the text of kept rows is unchanged.

    Args:
        number: index of the list.
        merge_labels: add the labels of dropped rows of this list to the kept rows that they repeat.
            A class gets its largest confidence, so -1 (unknown) only if it has no other.

    Returns:
        number of kept rows whose labels changed.
    """
    start, stop = repeats.starts[number : number + 2]
    kept = repeats.how[start:stop] == 0
    merged = _merged_labels(repeats, number) if merge_labels else {}
    changed = row = 0
    with rewritten(output) as file:
        for block, _, chunk in over_list(repeats.lists[number].path, read_block, 1):
            text = chunk.read().split(b"\n")
            for line in block.numbers.tolist():
                written = text[line]
                if row in merged:
                    name = repeats.lists[number].names[row]
                    labels = merged[row]
                    new = format_row(Row(name, tuple(labels), tuple(labels.values())))
                    changed, written = changed + 1, new.encode()
                if kept[row]:
                    file.write(written + b"\n")
                row += 1
    return changed


def _merged_labels(repeats: Repeats, number: int) -> dict[int, dict[int, float]]:
    """The new labels of the rows whose labels change, by row of the list."""
    start, stop = repeats.starts[number : number + 2]
    own = repeats.kept[start:stop] - start
    inside = (own >= 0) & (own < stop - start)
    dropped = inside & (repeats.how[start:stop] > 0)
    taken = dropped.copy()
    taken[own[dropped]] = True
    labels: dict[int, dict[int, float]] = {}
    before: dict[int, dict[int, float]] = {}
    row = 0
    for block, _, _ in over_list(repeats.lists[number].path, read_block, 1):
        for r in np.flatnonzero(taken[row : row + len(block)]).tolist():
            found, kept = _labels_of(block, r), int(own[row + r])
            if kept == row + r:
                before[kept] = found
            merged = labels.setdefault(kept, {})
            for c, confidence in found.items():
                merged[c] = max(merged.get(c, confidence), confidence)
        row += len(block)
    return {kept: merged for kept, merged in labels.items() if merged != before[kept]}


def _labels_of(block: Block, row: int) -> dict[int, float]:
    own = slice(*block.labels.offsets[row : row + 2].tolist())
    columns = block.labels.classes[own].tolist(), block.labels.confidences[own].tolist()
    return dict(zip(*columns, strict=True))


def write_page(path: Path, repeats: Repeats, most: int) -> None:
    """Writes an HTML page with the pairs across lists and within each list.

    Args:
        most: maximum number of pairs of each kind, those with the smallest similarity first.
    """
    rows = np.flatnonzero(repeats.how)
    ends = repeats.starts[1:]
    list_of, kept_in = (np.searchsorted(ends, r, side="right") for r in (rows, repeats.kept[rows]))
    sections = [("Rows", "".join(f"<p>{html.escape(c)}</p>" for c in _all_counts(repeats)))]
    kinds = [("In both lists", rows[list_of != kept_in])] if len(repeats.lists) > 1 else []
    kinds += [
        (f"Within {listed.path.name}", rows[(list_of == n) & (kept_in == n)])
        for n, listed in enumerate(repeats.lists)
    ]
    for heading, found in kinds:
        shown = found[np.argsort(repeats.similarity[found], kind="stable")][:most]
        pairs = "\n".join(_pair(repeats, row) for row in shown.tolist())
        some = f", {len(shown):,} of them shown" if len(shown) < len(found) else ""
        sections.append((f"{heading}: {len(found):,}{some}", pairs))
    page = html_report.page("Repeated images", sections)
    atomic_write(path, page.replace("<h1>", f"{_PAIR_STYLE}<h1>", 1).encode("utf-8", "replace"))


def _all_counts(repeats: Repeats) -> list[str]:
    return [repeats.counts(number) for number in range(len(repeats.lists))]


def _pair(repeats: Repeats, row: int) -> str:
    figures = []
    how = f"{repeats.similarity[row]:.4f}, by {HOW[repeats.how[row]]}"
    for place, verdict in ((int(repeats.kept[row]), "kept"), (row, f"left out: {how}")):
        listed, own = repeats.place(place)
        caption = f"{verdict}\n{listed.path.name}: {listed.names[own]}"
        figures.append(html_report.figure(_thumbnail(listed.image(own)), caption))
    return f'<div class="pair">{"".join(figures)}</div>'


def _thumbnail(image: SourceImage) -> str:
    try:
        return html_report.thumbnail(image.load().data, THUMBNAIL_SIDE)
    except (LoadError, ImageError):
        return ""


def report_problems(repeats: Repeats, examples: int = 5) -> None:
    """Prints to standard error which lines were refused and which images were unreadable."""
    for listed in repeats.lists:
        listed.refused.report()
    if repeats.unreadable:
        print(f"{len(repeats.unreadable)} unreadable images were kept, such as:", file=sys.stderr)
        for name, reason in repeats.unreadable[:examples]:
            print(f"{name}: {reason}", file=sys.stderr)
    if repeats.without_features:
        print(f"{repeats.without_features} rows without features", file=sys.stderr)
