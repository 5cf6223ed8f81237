"""Stores downloaded images as files, or in TFRecord shards in the order of the list.

A shard holds the downloaded images of `size` consecutive rows. They wait in a spool folder until
all of these rows are done; then the shard is written and the folder is removed. A shard that gains
or loses an image in a later run is rewritten. All decisions depend only on the files and the
manifest, so a run that resumes after a kill writes the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from data.common.errors import UserError
from data.common.files import atomic_write, read_text
from data.common.image_memory import MAX_IMAGE_BYTES
from data.common.images import JPEG_QUALITY, MAX_PIXELS, ImageError, probe, to_jpeg, whole
from data.common.sharding import Shard
from data.download.manifest import OK, PENDING, Entry, Manifest, is_whole
from data.download.names import Naming
from data.lists.rows import Row
from data.tfrecords.conversion import suffix_in
from data.tfrecords.examples import decode_example, encode_example, positives_of
from data.tfrecords.manifest import ShardFolder, ShardReport, ShardWriter
from data.tfrecords.records import RecordError, read_records

PLACEHOLDERS = Path(__file__).resolve().parents[1] / "placeholders.txt"
"""The project's own list of placeholders."""

_MD5_BYTES = 16 << 10  # largest body whose MD5 is computed, see data/placeholders.txt
_CACHED_SHARDS = 32  # shards whose digests are kept in memory
_PLACEHOLDER_LINE = re.compile(r"(sha256:[0-9a-fA-F]{64}|md5:[0-9a-fA-F]{32}|url:\S+)(\s.*)?")


class Placeholders:
    """Known images that hosts send in place of missing ones.

    Args:
        paths: files of placeholders, in the format of `data/placeholders.txt`.

    Raises:
        UserError: a line has another form.
    """

    def __init__(self, paths: Sequence[str | os.PathLike] = (PLACEHOLDERS,)) -> None:
        marks = [mark for path in paths for mark in _read_placeholders(path)]
        self._digests = {mark.lower() for mark in marks if not mark.startswith("url:")}
        self._in_urls = [mark[4:] for mark in marks if mark.startswith("url:")]
        self._kinds = {digest.partition(":")[0] for digest in self._digests}

    def match(self, body: bytes, url: str) -> bool:
        """Whether the body is a placeholder, by its digest or by the URL it came from."""
        if any(text in url for text in self._in_urls):
            return True
        kinds = self._kinds - {"md5"} if len(body) > _MD5_BYTES else self._kinds
        return any(
            f"{kind}:{hashlib.new(kind, body).hexdigest()}" in self._digests for kind in kinds
        )


def _read_placeholders(path: str | os.PathLike) -> list[str]:
    marks = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _PLACEHOLDER_LINE.fullmatch(line.strip())
        if found is None:
            raise UserError(f"{path}:{number}: neither sha256:HEX, md5:HEX nor url:TEXT")
        marks.append(found[1])
    return marks


class Stored(NamedTuple):
    """A written file: size in bytes, digest, and width and height in pixels.

    `is_converted`: whether it differs from the downloaded body.
    """

    bytes: int
    sha256: str
    width: int
    height: int
    is_converted: bool


class Store:
    """Writes images below a folder; one object serves all threads, including those of forks.

    Args:
        folder: the folder of the files.
        placeholders: images to refuse.
        as_jpeg: convert every image to an upright RGB JPEG; implied by `short_side`.
        short_side: shrink images to this short side, in pixels.
        quality: JPEG quality of images encoded here, 1 to 100.
        max_pixels: larger images are refused.
        max_image_bytes: limit of memory for decoding, over all threads of a process.
    """

    def __init__(
        self,
        folder: Path,
        placeholders: Placeholders,
        as_jpeg: bool = False,
        short_side: int | None = None,
        quality: int = JPEG_QUALITY,
        max_pixels: int = MAX_PIXELS,
        max_image_bytes: int = MAX_IMAGE_BYTES,
    ) -> None:
        self._folder = folder
        self._placeholders = placeholders
        self._as_jpeg = as_jpeg or short_side is not None
        self._short_side = short_side
        self._quality = quality
        self._limits = max_pixels, max_image_bytes

    def store(self, body: bytes, url: str, name: str, partial: str, rotation: int = 0) -> Stored:
        """Checks the body and writes it as `folder/name`.

        Args:
            url: the URL that the body came from.
            partial: temporary name of the file while it is written; see `partial_name`.
            rotation: see `to_jpeg`; a rotated image becomes a JPEG.

        Raises:
            ImageError: not a complete image, or a placeholder (its kind is `placeholder`).
            OSError: the file cannot be written.
        """
        if self._placeholders.match(body, url):
            raise ImageError("placeholder", "the host's placeholder for a missing image")
        data, width, height = self._checked(body, rotation)
        atomic_write(f"{self._folder}/{name}", data, sync=False, temporary=partial)
        digest = hashlib.sha256(data).hexdigest()
        return Stored(len(data), digest, width, height, data is not body)

    def _checked(self, body: bytes, rotation: int) -> tuple[bytes, int, int]:
        if self._as_jpeg or rotation:
            limits = *self._limits, rotation
            return to_jpeg(body, self._short_side, self._quality, "apply", *limits)
        found = whole(body, *self._limits)
        return body, found.width, found.height


def partial_name(row: int, part: Shard) -> str:
    """Temporary name of a row's file while it is written, in the same folder as the finished file.

    It is unique to the row, so that the next attempt overwrites what a killed one left behind. (The
    folder is the same because a rename between folders locks the entire file system.)
    """
    return f".{row}-{part.index}-{part.count}.part"


@dataclass(frozen=True)
class ShardOptions:
    """Label `kind` and `class_num`: see `data/tfrecords/examples.py`; `size`: rows per shard."""

    kind: str = "sparse"
    class_num: int | None = None
    size: int = 1024


class ShardMaker:
    """Makes the shards of one part of a list.

    Args:
        options: what the shards hold.
        folder: the folder of the shards.
        spool: the folder for images that wait for their shard.
        prefix: prefix of the shards' names: the part, if the list has several, else "".
        rows: the rows of the part.
        manifest: the results of the rows.
        naming: names the records, as it would name files.
    """

    def __init__(
        self,
        options: ShardOptions,
        folder: Path,
        spool: Path,
        prefix: str,
        rows: Iterator[Row],
        manifest: Manifest,
        naming: Naming,
    ) -> None:
        self._options = options
        self._folder = ShardFolder(folder)
        self.spool = spool
        self._prefix, self._suffix = prefix, suffix_in(folder)
        self._rows = rows
        self._manifest = manifest
        self._naming = naming
        self._reports = self._folder.reports()
        # Rows finish out of order, but within a window of a few shards, so only a few are needed.
        self._digests = lru_cache(_CACHED_SHARDS)(self._digests_of)
        self._made = 0  # shards from the first on that are made
        self._done = 0  # rows from the first on that are not pending

    def spool_folder(self, row: int) -> str:
        """Name of the folder in the spool where the image of a row waits."""
        return f"{row // self._options.size:05d}"

    def holds(self, entry: Entry, by_hash: bool) -> bool:
        """Whether the image of an OK row is unaltered, in the spool or in its shard.

        Args:
            by_hash: compare contents, not only sizes and the manifest of shards.
        """
        if is_whole(self.spool / self.spool_folder(entry.row) / entry.file, entry, by_hash):
            return True
        name = self._shard_name(entry.row // self._options.size)
        if not by_hash and self._folder.is_done(self._reports.get(name)):
            return True
        return self._digests(name).get(entry.file) == entry.sha256

    def _shard_name(self, number: int) -> str:
        return f"{self._prefix}{number:05d}{self._suffix}"

    def _digests_of(self, name: str) -> dict[str, str]:
        images = _images(self._folder.path / name)
        return {file: hashlib.sha256(data).hexdigest() for file, data in images.items()}

    def advance(self) -> None:
        """Writes, in order, the shards whose rows are done, along with all rows before them."""
        codes, size = self._manifest.codes, self._options.size
        while self._done < len(codes) and codes[self._done] != PENDING:
            self._done += 1
        while self._made * size < len(codes) and self._done >= min(
            (self._made + 1) * size, len(codes)
        ):
            self._make_if_needed(list(islice(self._rows, size)))
            self._made += 1

    def close(self) -> None:
        """Removes the spool, once all shards are made."""
        shutil.rmtree(self.spool, ignore_errors=True)

    def _make_if_needed(self, rows: Sequence[Row]) -> None:
        first = self._made * self._options.size
        name = self._shard_name(self._made)
        spool = self.spool / self.spool_folder(first)
        report = self._reports.get(name)
        count = sum(self._manifest.is_ok(first + i) for i in range(len(rows)))
        if self._folder.is_done(report) and report.rows == count and not spool.exists():
            return
        self._folder.add(self._make(name, spool, first, rows))
        shutil.rmtree(spool, ignore_errors=True)

    def _make(self, name: str, spool: Path, first: int, rows: Sequence[Row]) -> ShardReport:
        options, path = self._options, self._folder.path / name
        in_shard = _images(path)
        writer = ShardWriter(path)
        with writer:
            for number, row in enumerate(rows, first):
                if not self._manifest.is_ok(number):
                    continue
                file = self._naming.file(row.image)
                waiting = spool / file
                data = waiting.read_bytes() if waiting.exists() else in_shard.get(file)
                if data is None:
                    raise UserError(
                        f"{path}: {file} was downloaded but is missing; give another --save_dir"
                    )
                found = probe(data)
                image = data, file, found.width, found.height
                given = row.classes, row.confidences
                example = encode_example(options.kind, *image, *given, options.class_num)
                is_kept = self._manifest.codes[number] == OK
                writer.add(example, positives_of(options.kind, *given), len(data), is_kept)
        source = hashlib.sha256(repr((options, first, list(rows))).encode()).hexdigest()[:32]
        return writer.report(source)


def _images(shard: Path) -> dict[str, bytes]:
    """Encoded images of a shard by name; for a damaged shard, those before the damage."""
    found: dict[str, bytes] = {}
    with suppress(FileNotFoundError, RecordError):
        for features in map(decode_example, read_records(shard)):
            name = features["name"].bytes_list.value[0].decode()
            found[name] = features["image"].bytes_list.value[0]
    return found
