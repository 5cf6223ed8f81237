"""Random access to the records of many TFRecord files, of any label kind."""

from __future__ import annotations

import functools
import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from data.records import INDEX_SUFFIX, RecordError, decode_example, read_index, read_record

NOT_RECORDS = (INDEX_SUFFIX, ".json", ".txt", ".csv", ".tmp", ".html", ".png")
OPEN_FILES = 256
BAD_NAMES_KEPT = 1000


class InputError(ValueError):
    """Records that are not there, or that the run cannot use."""


def find_files(data_dir: str) -> list[Path]:
    """The TFRecord files of a folder or a glob, sorted.

    Raises:
      InputError: the folder is missing or holds none.
    """
    if Path(data_dir).is_dir():
        paths = sorted(Path(data_dir).iterdir())
    elif glob.has_magic(data_dir):
        paths = sorted(map(Path, glob.glob(data_dir)))
    elif Path(data_dir).is_file():
        return [Path(data_dir)]
    else:
        raise InputError(f"no folder {data_dir}: give one with TFRecords, see data/tfrecord.sh")
    found = [p for p in paths if p.is_file() and p.suffix not in NOT_RECORDS and p.name[0] != "."]
    if not found:
        raise InputError(f"no records in {data_dir}: write some with data/tfrecord.sh")
    return found


class RecordReader:
    """Reads records by id: 0 to `total` - 1, through the files in sorted order.

    Args:
      options: with `data_dir`, `class_num` and `max_bad_records`.

    Attributes:
      bad_names: the first records that could not be used, by name.
      failure: an error that must end the run, met inside a reading thread.
    """

    def __init__(self, options: Any) -> None:
        self._files = find_files(options.data_dir)
        self._class_num, self._limit = options.class_num, options.max_bad_records
        self._indexes = []
        for path in self._files:
            try:
                self._indexes.append(read_index(path))
            except RecordError as error:
                raise InputError(str(error)) from error
            if self._indexes[-1].problem:
                logging.warning("%s", self._indexes[-1].problem)
        self.counts = [len(index.offsets) for index in self._indexes]
        self._first = np.concatenate([[0], np.cumsum(self.counts)])
        self.total = int(self._first[-1])
        if not self.total:
            raise InputError(f"no records in {options.data_dir}: its files are empty")
        self.bad_names: list[str] = []
        self.bad_count = 0
        self.failure: InputError | None = None
        self._open = functools.lru_cache(OPEN_FILES)(_OpenFile)
        self.read(np.arange(1))  # A wrong class count or kind shows before anything is built.

    def read(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """JPEG bytes [n], classes int32 and confidences float32 [n, K], and names [n].

        A record that is damaged has empty bytes and no labels, and its place as its name.

        Raises:
          InputError: a class is out of range, or a record has no image or no label.
        """
        try:
            rows = [self._read_one(int(record)) for record in ids]
        except InputError as error:
            self.failure = error
            raise
        width = max(1, max(len(classes) for _, classes, _, _ in rows))
        index = np.full((len(rows), width), -1, np.int32)
        value = np.zeros((len(rows), width), np.float32)
        for row, (_, classes, confidences, _) in enumerate(rows):
            index[row, : len(classes)] = classes
            value[row, : len(classes)] = confidences
        images = np.array([row[0] for row in rows] + [None], object)[:-1]
        names = np.array([row[3] for row in rows] + [None], object)[:-1]
        return images, index, value, names

    def _read_one(self, record: int) -> tuple[bytes, Sequence[int], Sequence[float], bytes]:
        file = int(np.searchsorted(self._first, record, "right")) - 1
        number = record - int(self._first[file])
        where = f"{self._files[file]}: record {number}"
        index = self._indexes[file]
        try:
            payload = read_record(
                self._open(self._files[file]).descriptor,
                int(index.offsets[number]),
                int(index.sizes[number]),
            )
            example = decode_example(payload)
        except RecordError as error:
            logging.warning("%s: %s", where, error)
            return b"", (), (), where.encode()
        if not example.get("image"):
            raise InputError(f"{where} has no image: was it written by data/tfrecord.py?")
        classes, confidences = self._labels(example, where)
        name = example.get("name") or [b""]
        return example["image"][0], classes, confidences, name[0] or where.encode()

    def _labels(self, example: dict[str, list], where: str) -> tuple[np.ndarray, np.ndarray]:
        if "label_index" in example:
            classes = np.asarray(example["label_index"], np.int64)
            confidences = np.asarray(example["label_value"], np.float32)
        elif not example.get("label"):
            raise InputError(f"{where} has no label")
        elif isinstance(example["label"][0], bytes):
            dense = np.frombuffer(example["label"][0], np.float32)
            if len(dense) != self._class_num:
                raise InputError(
                    f"{where} has {len(dense)} classes, --class_num is {self._class_num}"
                )
            classes = np.flatnonzero(dense)
            confidences = dense[classes]
        else:
            classes = np.asarray(example["label"], np.int64)
            confidences = np.ones(len(classes), np.float32)
        wrong = classes[(classes < 0) | (classes >= self._class_num)]
        if len(wrong):
            raise InputError(f"{where} has class {wrong[0]}, --class_num is {self._class_num}")
        return classes, confidences

    def note_bad(self, names: list[str]) -> None:
        """Counts and names records that could not be used.

        Raises:
          InputError: they are more than the limit.
        """
        for name in names:
            logging.warning("left out, cannot be decoded: %s", name)
        self.bad_count += len(names)
        self.bad_names += names[: BAD_NAMES_KEPT - len(self.bad_names)]
        if self.bad_count > self._limit:
            raise InputError(
                f"{self.bad_count} records cannot be decoded, --max_bad_records is {self._limit}; "
                f"the last is {names[-1]}"
            )


class _OpenFile:
    """A descriptor that is closed when the last user lets go of it."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        os.close(self.descriptor)
