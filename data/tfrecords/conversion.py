"""Converts annotated images to TFRecord shards: the same bytes for any number of workers.

Each shard is written by one process, which decodes every image to check that it is complete.
Unusable rows are left out of the shard and reported. A class with the methods of `Rows` provides
the rows: `ListRows` reads image lists, `shard_size` consecutive rows of a list for each shard.
"""

from __future__ import annotations

import hashlib
import os
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from data.common import mirror
from data.common.errors import UserError
from data.common.files import refuse_other_encodings
from data.common.image_memory import MAX_IMAGE_BYTES, bounded
from data.common.images import JPEG_QUALITY, MAX_PIXELS, ImageError, Jpeg, to_jpeg
from data.common.parallel import ordered_map
from data.common.processes import ProcessGroup
from data.common.progress import Progress
from data.lists.rows import ListError, Row, parse_row
from data.tfrecords.examples import encode_example, positives_of
from data.tfrecords.manifest import ShardFolder, ShardReport, ShardWriter
from data.tfrecords.records import RecordError

SHARD_SIZE = 1024
SUFFIX, EARLIER_SUFFIX = ".tfrecords", ".tfrecord"  # as released; ours until 2026
_OTHER_BYTES = 64 << 20  # of memory that decoding may take in addition to the image


class RowError(Exception):
    """A row to leave out: its image's name, a keyword to count by, and a one-line reason."""

    def __init__(self, image: str, kind: str, reason: str):
        super().__init__(reason)
        self.image, self.kind, self.reason = image, kind, " ".join(reason.split())


class BadRow(NamedTuple):
    """A row that was left out; `where` is its file and line."""

    where: str
    image: str
    kind: str
    reason: str


class Converted(NamedTuple):
    """A row's record; see `ShardWriter.add`."""

    example: bytes
    positives: Sequence[int]
    image_bytes: int
    is_kept: bool
    clipped_boxes: int = 0


class Rows(Protocol):
    """The rows to convert, divided into shards that have a `name`."""

    def source(self, shard: Any) -> str:
        """A hash of everything that determines the shard's content, except the images' bytes."""

    def converted(self, shard: Any) -> Iterator[Converted | BadRow]:
        """The shard's rows in order."""


@dataclass(frozen=True)
class ImageOptions:
    """How images are stored.

    Attributes:
        short_side: shrink images to this short side, in pixels; None keeps their size.
        quality: quality of JPEGs that have to be encoded, 1 to 100.
        orientation: `apply` turns images upright by their EXIF data, `keep` leaves them.
        max_pixels: larger images are refused.
        max_image_bytes: memory that decoding an image may take in a process.
    """

    short_side: int | None = None
    quality: int = JPEG_QUALITY
    orientation: Literal["apply", "keep"] = "apply"
    max_pixels: int = MAX_PIXELS
    max_image_bytes: int = MAX_IMAGE_BYTES

    def read(self, path: str | os.PathLike, name: str) -> tuple[bytes, Jpeg]:
        """The bytes of an image file, and the image to store; they may be the same object.

        Raises:
            RowError: it cannot be read or is refused; `name` is its name in the row.
        """
        try:
            data = Path(path).read_bytes()
            with bounded(self.max_image_bytes + _OTHER_BYTES):
                jpeg = to_jpeg(
                    data,
                    self.short_side,
                    self.quality,
                    self.orientation,
                    self.max_pixels,
                    self.max_image_bytes,
                )
        except FileNotFoundError as error:
            raise RowError(name, "missing", "no such file") from error
        except OSError as error:
            raise RowError(name, "unreadable", str(error.strerror)) from error
        except ImageError as error:
            raise RowError(name, error.kind, str(error)) from error
        return data, jpeg


class ShardPlan(NamedTuple):
    """The rows of a shard: bytes `offset` to `offset + size` of a list, after `line` lines."""

    name: str
    list_path: str
    offset: int
    size: int
    line: int


def suffix_in(folder: str | os.PathLike) -> str:
    """The suffix for new shards in a folder: `EARLIER_SUFFIX` if it already has such shards."""
    return EARLIER_SUFFIX if any(Path(folder).glob(f"*{EARLIER_SUFFIX}")) else SUFFIX


def plan(
    lists: Sequence[Path], shard_size: int, start_index: int = 0, suffix: str = SUFFIX
) -> Iterator[ShardPlan]:
    """Divides lists into shards of `shard_size` consecutive rows; a list's last may be shorter.

    Empty lines do not count as rows. Shards are named by number, such as `00000.tfrecords`.
    """
    pieces = ((path, *piece) for path in lists for piece in _pieces(path, shard_size))
    for number, (path, offset, size, line) in enumerate(pieces, start_index):
        yield ShardPlan(f"{number:05d}{suffix}", os.fspath(path), offset, size, line)


def _pieces(path: Path, shard_size: int) -> Iterator[tuple[int, int, int]]:
    """Offset and size, in bytes, of each `shard_size` rows of a list, and the lines before them."""
    start = offset = rows = line = start_line = 0
    refuse_other_encodings(path)
    with open(path, "rb") as file:
        if file.read(len(BOM_UTF8)) == BOM_UTF8:  # as Windows editors write
            start = offset = len(BOM_UTF8)
        file.seek(offset)
        for text in file:
            if rows == shard_size and text.strip():
                yield start, offset - start, start_line
                start, start_line, rows = offset, line, 0
            rows += bool(text.strip())
            offset += len(text)
            line += 1
    if rows:
        yield start, offset - start, start_line


def convert(
    shards: Sequence[Any],
    rows: Rows,
    output: str | os.PathLike,
    processes: int,
    group: ProcessGroup,
    retry_bad: bool = False,
) -> list[ShardReport] | None:
    """Writes this process's missing shards; the collecting process also writes the manifest.

    Args:
        shards: those of all processes, each with a `name`.
        rows: what the shards hold.
        output: the folder of shards.
        processes: workers of this process; each writes one shard at a time.
        group: the processes that share the shards.
        retry_bad: rewrite shards from which rows were left out.

    Returns:
        the reports of all shards of the folder; None if another rank or run collects them.

    Raises:
        UserError: the folder has a shard of the same name from other rows or options.
    """
    folder = ShardFolder(output)
    done = folder.reports()
    _check_sources(folder, shards, done, rows)
    ours = group.shard.every(shards)
    todo = [
        shard
        for shard in ours
        if not folder.is_done(done.get(shard.name)) or (retry_bad and done[shard.name].bad)
    ]
    try:
        with Progress("conversion", len(ours), "shard", len(ours) - len(todo)) as progress:
            for _ in ordered_map(_ShardJob(rows, folder), todo, processes):
                progress.update()
    except BaseException:  # Ctrl-C may end a worker before it can delete the file that it opened
        folder.clear_leftovers({shard.name for shard in ours})
        raise
    group.wait()
    if not group.collects:
        return None
    return folder.finish([shard.name for shard in shards])


def _check_sources(
    folder: ShardFolder, shards: Sequence[Any], done: dict[str, ShardReport], rows: Rows
) -> None:
    for shard in shards:
        if shard.name in done and done[shard.name].source != rows.source(shard):
            raise UserError(
                f"{folder.path / shard.name} was made from other rows or with other options:"
                " give another --tfrecords folder or --start_index, or delete the old shards"
            )


class _ShardJob(NamedTuple):
    """Makes one shard in a worker process."""

    rows: Rows
    folder: ShardFolder

    def __call__(self, shard: Any) -> None:
        bad = []
        writer = ShardWriter(self.folder.path / shard.name)
        with writer:
            for row in self.rows.converted(shard):
                if isinstance(row, BadRow):
                    bad.append(row)
                else:
                    writer.add(*row)
        self.folder.add(writer.report(self.rows.source(shard), bad))
        mirror.release(writer.path)  # at a URL, only unfinished shards need local disk


@dataclass(frozen=True)
class ListRows:
    """Rows of image lists, with shards from `plan`.

    Attributes:
        images: the folder that the list's names are relative to.
        kind: kind of label, see `data/tfrecords/examples.py`.
        class_num: classes are in 0..class_num-1; needed by dense labels.
        options: how images are stored.
    """

    images: str
    kind: Literal["sparse", "dense", "single"] = "sparse"
    class_num: int | None = None
    options: ImageOptions = field(default_factory=ImageOptions)

    def source(self, shard: ShardPlan) -> str:
        """See `Rows`."""
        made_from = (self.kind, self.class_num, self.options.short_side)
        made_from += (self.options.quality, self.options.orientation, self.options.max_pixels)
        return hashlib.sha256(repr(made_from).encode() + _read(shard)).hexdigest()[:32]

    def converted(self, shard: ShardPlan) -> Iterator[Converted | BadRow]:
        """See `Rows`."""
        for number, line in enumerate(_read(shard).split(b"\n"), shard.line + 1):
            try:
                row = _row(line, self.class_num)
                if row is not None:
                    yield self._converted(row)
            except RowError as error:
                where = f"{shard.list_path}:{number}"
                yield BadRow(where, error.image, error.kind, error.reason)

    def _converted(self, row: Row) -> Converted:
        original, jpeg = self.options.read(Path(self.images, row.image), row.image)
        try:
            example = encode_example(
                self.kind, *(jpeg.data, row.image, jpeg.width, jpeg.height),
                row.classes, row.confidences, self.class_num,
            )  # fmt: skip
        except RecordError as error:
            raise RowError(row.image, "label", str(error)) from error
        positives = positives_of(self.kind, row.classes, row.confidences)
        return Converted(example, positives, len(jpeg.data), jpeg.data is original)


def _row(line: bytes, class_num: int | None) -> Row | None:
    """The row of a line, None for an empty one; errors have no location, which `BadRow` adds."""
    try:
        return parse_row(line.decode(), "", class_num)
    except (ListError, UnicodeDecodeError) as error:
        image = line.partition(b"\t")[0].decode(errors="replace")
        raise RowError(" ".join(image.split()), "row", str(error).removeprefix(": ")) from error


def _read(shard: ShardPlan) -> bytes:
    """The lines of a shard's rows."""
    with open(shard.list_path, "rb") as file:
        file.seek(shard.offset)
        return file.read(shard.size)
