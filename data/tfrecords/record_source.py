"""Random access to the labeled images of many record files."""

from __future__ import annotations

import bisect
import contextlib
import functools
import glob
import itertools
import logging
import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from data.common import storage
from data.common.block_cache import RangeReader
from data.common.errors import UserError
from data.common.files import files_at_once, matches
from data.common.progress import Progress
from data.common.storage import StoredFile
from data.tfrecords import records
from data.tfrecords.examples import Features, decode_example, decode_labels
from data.tfrecords.manifest import stored_label_counts
from data.tfrecords.reading import (
    AHEAD,
    DEFAULT_READING,
    Block,
    BlockReader,
    ReadOptions,
    block_begins,
    block_of,
)
from data.tfrecords.records import RecordError

LOGGER = logging.getLogger(__name__)
SINGLES_KEPT = 2048  # records kept when they are prefetched singly from URLs
OPEN_FILES = 256  # of a source at once, if the process limit allows
INDEX_THREADS = 16  # for the files' indexes: most of the time is latency of a network drive
READ_THREADS, READ_CHUNK = 8, 1024  # to read all labels; records per task
# What our tools write next to records: indices, the manifest, lists of bad rows and of downloads.
NOT_RECORDS = (records.INDEX_SUFFIX, ".json", ".tsv", ".txt", ".tmp", ".part")


class Sample(NamedTuple):
    """One record: an encoded image, its name, and its labels [labels] (-1: unknown)."""

    image: bytes
    name: bytes
    classes: np.ndarray  # int32
    values: np.ndarray  # float32


def find_files(data_dir: str | os.PathLike[str], split: str = "train") -> list[str]:
    """The record files of a folder, or those that a glob matches (see `matches`), sorted by name.

    In a folder every file counts, whatever its extension, except hidden files and `NOT_RECORDS`. If
    a folder has no records, its subfolder `split` (train or val) is used, as released.

    See `find_at_url` for URLs.

    Raises:
        UserError: no such folder, or no file.
    """
    pattern = os.fspath(data_dir)
    paths: Iterable[str] = matches(pattern)
    if os.path.isdir(pattern):
        paths = (entry.path for entry in os.scandir(pattern))
    elif not paths and not glob.has_magic(pattern):
        raise UserError(f"{pattern}: no such folder; give --data_dir a folder, a file or a glob")
    found = sorted(path for path in paths if _may_hold_records(path))
    if not found and os.path.isdir(below := os.path.join(pattern, split)):
        return find_files(below, split)
    if not found:
        raise UserError(f"{pattern}: no record files; data/tfrecord.py writes them")
    return found


def find_at_url(url: str, split: str = "train") -> list[StoredFile]:
    """`find_files` for a folder, a glob (see `storage.find`) or a file at a URL."""
    for place in url, f"{url.rstrip('/')}/{split}/":
        found = [file for file in storage.find(place) if _is_named_as_records(file.url)]
        if found or glob.has_magic(url):
            break
    if not found:
        raise UserError(f"{url}: no record files there; give a folder, a file or a glob")
    return found


def _may_hold_records(path: str) -> bool:
    return _is_named_as_records(path) and os.path.isfile(path)


def _is_named_as_records(path: str) -> bool:
    name = path.partition("?")[0] if storage.is_url(path) else path  # without a signature
    name = os.path.basename(name)
    return not name.startswith(".") and not name.endswith(NOT_RECORDS)


class RecordSource:
    """The records of all files, numbered from 0 in the order of the files.

    Args:
        data_dir, split: see `find_files` and `find_at_url`.
        class_num: number of classes.
        max_bad_records: if more records than this, or all of them, are unreadable, the run ends.
        parse: features, class_num -> what `read` returns; None: a `Sample`. Raises RecordError for
            one bad record, UserError for a mistake that affects all records.
        reading: how records are read.

    Attributes:
        files: paths or URLs, in order.
        counts: records of each file, int64 [files].
        total: number of records.
        blocks: number of blocks that the records are read in; 0: one record at a time.

    Raises:
        UserError: no files, no records, a file that holds something else, or a first record
            that training cannot use; see also `storage.find`.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        class_num: int,
        max_bad_records: int,
        split: str = "train",
        parse: Callable[[Features, int], Any] | None = None,
        reading: ReadOptions = DEFAULT_READING,
    ):
        self._parse = parse or _parse_sample
        self.reading = reading
        self._stored: dict[str, StoredFile] = {}
        if storage.is_url(data_dir):
            self._stored = {file.url: file for file in find_at_url(data_dir, split)}
            self._ranges = RangeReader(reading.cache_dir, reading.cache_gib * 2**30)
        self.files = list(self._stored) or find_files(data_dir, split)
        self._class_num = class_num
        self._max_bad_records, self._problems = max_bad_records, 0
        self._rejected: set[int] = set()
        with ThreadPoolExecutor(INDEX_THREADS) as pool:
            indexes = list(pool.map(self._read_index, self.files))
        for path, index in zip(self.files, indexes, strict=True):
            if index.problem:
                self._report(path, index.problem.removeprefix(f"{path}: "))
        self.counts = np.array([len(index.sizes) for index in indexes], np.int64)
        self._first = list(itertools.accumulate(self.counts.tolist(), initial=0))
        self.total = self._first[-1]
        if not self.total:
            raise UserError(f"{os.fspath(data_dir)}: no records in {len(self.files)} file(s)")
        self._offsets = np.concatenate([index.offsets for index in indexes])
        self._sizes = np.concatenate([index.sizes for index in indexes])
        self._open = functools.lru_cache(files_at_once(OPEN_FILES))(_open)
        if reading.in_blocks(self.files[0]):
            wanted = math.ceil(self._sizes.sum() / (reading.block_mib * 2**20))
            self.read_in_blocks(min(max(1, wanted), self.total), kept=2 * READ_THREADS)
        else:
            self.read_singly()
        # A mistake that affects every record ends the run before the network is built.
        with contextlib.suppress(RecordError):
            self.read(0)

    def _read_index(self, path: str) -> records.Index:
        try:
            if path in self._stored:
                return records.read_index_at_url(self._stored[path], self._ranges)
            return records.read_index(path)
        except RecordError as error:
            raise UserError(f"{error}; move it away, or give a glob of the record files") from error

    def read_in_blocks(self, blocks: int, kept: int) -> None:
        """Switches to reading in `blocks` blocks, and keeps those used most recently."""
        self.blocks, readers = blocks, self.reading.readers
        self._begins = block_begins(self.total, blocks).tolist()
        self._reader = BlockReader(self._read_block, kept + readers, readers)

    def read_singly(self) -> None:
        """Switches to reading one record at a time; from a URL, threads prefetch them."""
        self.blocks, self._reader = 0, None
        if self._stored:
            self._begins = range(self.total + 1)
            self._reader = BlockReader(self._read_block, SINGLES_KEPT, self.reading.readers)

    @property
    def records_ahead(self) -> int:
        """How many records before its use to call `read_ahead` with a record; 0: never."""
        if not self.blocks:
            return 0
        return AHEAD * self.reading.readers * math.ceil(self.total / self.blocks)

    def read_ahead(self, records: np.ndarray) -> None:
        """Prefetches the blocks of records, int64 [n], that are used later."""
        self._reader.read_ahead(self._blocks_of(records))

    def prefetch(self, records: Sequence[int]) -> None:
        """Prefetches records that are used next, which hides the latency of storage."""
        if self._reader:
            self._reader.prefetch(self._blocks_of(records))
            return
        for record in records:
            path, offset, size = self.place(record)
            file = self._open(path)  # keeps it open during the call: others may evict it
            os.posix_fadvise(file.fileno(), offset, size, os.POSIX_FADV_WILLNEED)

    def _blocks_of(self, records: Sequence[int] | np.ndarray) -> dict[int, None]:
        """The blocks of some records, each once, in order."""
        numbers = block_of(np.asarray(records), self.total, len(self._begins) - 1)
        return dict.fromkeys(numbers.tolist())

    def reject(self, record: int, reason: str) -> None:
        """Counts and logs a record that cannot be used; once, not again in later epochs.

        Raises:
            UserError: there are too many bad records.
        """
        if record in self._rejected:
            return
        self._rejected.add(record)
        self._report(self.where(record), reason)
        if len(self._rejected) == self.total:
            raise UserError(f"none of the {self.total} records can be read, see the warnings")

    def _report(self, where: str, reason: str) -> None:
        self._problems += 1
        LOGGER.warning("bad input %d: %s: %s", self._problems, where, reason)
        if self._problems > self._max_bad_records:
            raise UserError(
                f"{self._problems} unreadable records or damaged files, the last {where}: {reason};"
                f" raise --max_bad_records={self._max_bad_records} if that is acceptable"
            )

    def where(self, record: int) -> str:
        """A record's file and its number in that file, for messages."""
        file = self._file_of(record)
        return f"{self.files[file]}: record {record - self._first[file]}"

    def place(self, record: int) -> tuple[str, int, int]:
        """A record's file, and its offset and size in that file, in bytes."""
        path = self.files[self._file_of(record)]
        return path, int(self._offsets[record]), int(self._sizes[record])

    def _bytes_of(self, record: int) -> bytes:
        """A record with its framing; truncated if its file is."""
        if not self._reader:
            return self._fetch(*self.place(record))
        number = block_of(record, self.total, len(self._begins) - 1)
        begin, content = self._reader.block(number)[self._file_of(record)]
        offset = int(self._offsets[record]) - begin
        return content[offset : offset + int(self._sizes[record])]

    def _read_block(self, number: int) -> Block:
        block: Block = {}
        record, end = self._begins[number], self._begins[number + 1]
        while record < end:
            file = self._file_of(record)
            last = min(end, self._first[file + 1]) - 1
            path, offset, _ = self.place(record)
            size = int(self._offsets[last] + self._sizes[last]) - offset
            block[file] = offset, self._fetch(path, offset, size)
            record = last + 1
        return block

    def _fetch(self, path: str, offset: int, size: int) -> bytes:
        if path in self._stored:
            return self._ranges.read(self._stored[path], offset, size)
        file = self._open(path)
        return os.pread(file.fileno(), size, offset)

    def _file_of(self, record: int) -> int:
        return bisect.bisect_right(self._first, record) - 1

    def read(self, record: int) -> Any:
        """One record.

        Raises:
            RecordError: its bytes are damaged, or a label value is not finite.
            UserError: it has no image, no label, or a label outside [0, class_num); or its file at
                a URL has changed.
        """
        try:
            payload = records.payload_of(self._bytes_of(record), int(self._sizes[record]))
        except RecordError:
            if not self._stored:
                raise
            path, offset, size = self.place(record)
            if storage.find(path) != [self._stored[path]]:
                raise storage.changed(path) from None
            # Perhaps it was damaged on the way here, and then cached.
            payload = records.payload_of(storage.read(path, offset, size), size)
        features = decode_example(payload)
        try:
            return self._parse(features, self._class_num)
        except RecordError:
            raise
        except UserError as error:
            raise UserError(f"{self.where(record)}: {error}") from None

    def class_counts(self) -> np.ndarray:
        """The number of records with a positive label for each class, int64 [class_num].

        From the manifest of the files, or by reading all records if no manifest matches.

        Raises:
            UserError: a label is outside [0, class_num).
        """
        stored = [file.size for file in self._stored.values()]
        sizes = stored or list(map(os.path.getsize, self.files))
        found = stored_label_counts(self.files, self.counts.tolist(), sizes)
        if found is None:
            return count_classes(self.positives(), self._class_num)
        outside = [label for label in found if label >= self._class_num]
        if outside:
            folder = os.path.dirname(self.files[0])
            raise UserError(f"{folder}: {_outside(min(outside), self._class_num)}")
        return np.array([found[label] for label in range(self._class_num)], np.int64)

    def positives(self) -> list[np.ndarray]:
        """The classes with a label above 0, int32, of every record; reads all records once.

        A damaged record has none here; it is counted as bad when training reads it.
        """
        # In chunks: a pool creates an object for each task, too many for millions of records.
        numbers = range(self.total)
        pieces = [numbers[i : i + READ_CHUNK] for i in range(0, self.total, READ_CHUNK)]
        found: list[np.ndarray] = []
        with (
            ThreadPoolExecutor(READ_THREADS) as pool,
            Progress("reading labels", self.total, "record") as progress,
        ):
            for piece in pool.map(self._positives_of, pieces):
                found += piece
                progress.update(len(piece))
        return found

    def _positives_of(self, piece: Iterable[int]) -> list[np.ndarray]:
        found = []
        for record in piece:
            try:
                sample = self.read(record)
                found.append(sample.classes[sample.values > 0])
            except RecordError:
                found.append(np.zeros(0, np.int32))
        return found


def _open(path: str) -> BinaryIO:
    # An evicted file closes when its last reader drops it.
    return open(path, "rb", buffering=0)


def _parse_sample(features: Features, class_num: int) -> Sample:
    image, name = (next(iter(features[key].bytes_list.value), b"") for key in ("image", "name"))
    if not image:
        raise UserError("no image in it; a record holds `image`, the bytes of a JPEG")
    classes, values = decode_labels(features, class_num)
    # A list: to compare the few labels of an image, NumPy takes ten times as long.
    listed = classes.tolist()
    if listed and not 0 <= min(listed) <= max(listed) < class_num:
        raise UserError(_outside(next(c for c in listed if not 0 <= c < class_num), class_num))
    if not math.isfinite(sum(values.tolist())):
        raise RecordError(f"a label value of {values[~np.isfinite(values)][0]}")
    return Sample(image, name, classes.astype(np.int32), values)


def _outside(label: int, class_num: int) -> str:
    return f"label {label} is out of range [0, {class_num}): check --class_num"


def count_classes(labels: Sequence[np.ndarray], class_num: int) -> np.ndarray:
    """How many records have each class, int64 [class_num]; `labels` are each record's classes."""
    return np.bincount(np.concatenate([*labels, np.zeros(0, np.int64)]), minlength=class_num)


def pad_labels(samples: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray]:
    """Classes, int32 [samples, K], padded with -1, and values, float32 [samples, K], with 0.

    K is a multiple of 8, so that a compiled training step sees few shapes.
    """
    longest = max((len(sample.classes) for sample in samples), default=0)
    shape = len(samples), max(8, -(-longest // 8) * 8)
    index, value = np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
    for row, sample in enumerate(samples):
        index[row, : len(sample.classes)] = sample.classes
        value[row, : len(sample.classes)] = sample.values
    return index, value
