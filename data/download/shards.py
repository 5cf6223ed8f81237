"""Writes downloaded images straight to TFRecord shards, in the order of the list.

A shard holds what could be had of `size` consecutive rows. Their images wait in a spool folder
until all of the rows are done; then the shard is written and the folder removed. A shard to which a
later run adds an image (or from which one is dropped) is written again. All decisions come from
what is on the disk and in the manifest, so that a killed run continues to the same bytes.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

from data.common.errors import UserError
from data.common.files import sha256
from data.common.images import probe
from data.download.manifest import OK, PENDING, Entry, Manifest
from data.download.names import Naming
from data.download.verify import is_whole
from data.lists.rows import Row
from data.tfrecords import label_counts
from data.tfrecords.conversion import suffix_in
from data.tfrecords.example_codec import positives_of
from data.tfrecords.manifest import ShardFolder, ShardReport
from data.tfrecords.records import (
    RecordError,
    RecordWriter,
    decode_example,
    encode_example,
    read_records,
)

_READ_SHARDS = 32


@dataclass(frozen=True)
class ShardOptions:
    """`kind` of label and `class_num` as in `data/tfrecords/records.py`; `size` in rows."""

    kind: str = "sparse"
    class_num: int | None = None
    size: int = 1024


class ShardMaker:
    """Makes the shards of one part of a list.

    Args:
        options: of the shards.
        folder: of the shards.
        spool: the folder for images that wait.
        prefix: of the shards' names: the part, where the list has several.
        rows: of the part.
        manifest: what became of them.
        naming: of the rows; records are named as files would be.
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
        self._folder.create()
        self.spool = spool
        self._prefix, self._suffix = prefix, suffix_in(folder)
        self._rows = rows
        self._manifest = manifest
        self._naming = naming
        self._reports = self._folder.reports()
        # Rows are done out of order, but within a window of a few shards.
        self._digests = lru_cache(_READ_SHARDS)(self._digests_of)
        self._made = 0  # shards
        self._done = 0  # rows at the beginning of the list that are not pending

    def spool_folder(self, row: int) -> str:
        """Where the image of a row waits, below the spool."""
        return f"{row // self._options.size:05d}"

    def holds(self, entry: Entry, by_hash: bool) -> bool:
        """Whether the image of a row that is OK waits, or is in its shard, unaltered."""
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
        """Makes the shards whose rows are all done, from the first on."""
        codes, size = self._manifest.codes, self._options.size
        while self._done < len(codes) and codes[self._done] != PENDING:
            self._done += 1
        while self._made * size < len(codes) and self._done >= min(
            (self._made + 1) * size, len(codes)
        ):
            self._make_if_needed(list(islice(self._rows, size)))
            self._made += 1

    def close(self) -> None:
        """Removes the spool; all shards are made."""
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
        path = self._folder.path / name
        in_shard = _images(path)
        image_bytes, kept = 0, 0
        labels: Counter[int] = Counter()
        with RecordWriter(path) as writer:
            for number, row in enumerate(rows, first):
                if not self._manifest.is_ok(number):
                    continue
                file = self._naming.file(row.image)
                waiting = spool / file
                data = waiting.read_bytes() if waiting.exists() else in_shard.get(file)
                if data is None:
                    raise UserError(
                        f"{path}: {file} is gone, which was downloaded; give another --save_dir"
                    )
                writer.write(self._example(row, file, data))
                labels.update(positives_of(self._options.kind, row.classes, row.confidences))
                image_bytes += len(data)
                kept += self._manifest.codes[number] == OK
        source = hashlib.sha256(repr((self._options, first, list(rows))).encode()).hexdigest()[:32]
        size, digest = path.stat().st_size, sha256(path)
        counts = label_counts.written(labels)
        return ShardReport(name, source, writer.count, size, digest, kept, image_bytes, [], counts)

    def _example(self, row: Row, name: str, data: bytes) -> bytes:
        found = probe(data)
        return encode_example(
            self._options.kind,
            data,
            name,
            found.width,
            found.height,
            row.classes,
            row.confidences,
            self._options.class_num,
        )


def _images(shard: Path) -> dict[str, bytes]:
    """Encoded images by name of a shard that may not be there, or be damaged from some point."""
    found: dict[str, bytes] = {}
    with suppress(FileNotFoundError, RecordError):
        for example in map(decode_example, read_records(shard)):
            found[example["name"][0].decode()] = example["image"][0]
    return found
