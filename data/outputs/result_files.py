"""Result files: formats, and finished shards of rows, from which a killed run resumes.

Every ten seconds a shard is added to the folder `<result>.partial`: a file of rows, named by the
number of its first image, and a report about it. Shards start and end at batch boundaries, so any
number of processes can resume. When all images are done, the rows are joined into the result and
the folder is removed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from data.common import mirror, state
from data.common.errors import UserError
from data.common.files import atomic_write, sha256
from data.common.finished import Reports

Row = TypeVar("Row")

SHARD_SECONDS = 10.0
"""The most work, in seconds, that is lost when a run is killed."""

_FORM = "result shard"
_SCHEMA = {
    "name": state.is_name,
    "settings": {"*": state.is_sha256},
    **dict.fromkeys(("items", "bad_items", "bytes"), state.is_count),
    "sha256": state.is_sha256,
}
_REMEDY = "delete it and run again"

_log = logging.getLogger(__name__)


class ResultFormat(NamedTuple, Generic[Row]):
    """A file format: how rows are encoded, and how the file is made from them.

    The body is the header followed by the bytes of all rows, in order.

    Attributes:
      header: first bytes of the body.
      encode: returns the bytes of a row.
      finish: called with (body, result): makes the result from the body, which it may move.
    """

    header: bytes
    encode: Callable[[Row], bytes]
    finish: Callable[[Path, Path], None] = os.replace


def choose_format(formats: dict[str, ResultFormat], result: str) -> ResultFormat:
    """The format for the suffix of `result`; fails before any work is done.

    Args:
      formats: format for each suffix, such as `.csv`.
      result: name of the file.

    Raises:
      UserError: no format has this suffix, or its package is not installed.
    """
    suffix = Path(result).suffix.lower()
    if suffix not in formats:
        raise UserError(f"--result={result}: the name must end in {', '.join(formats)}")
    if suffix == ".parquet" and not has_pyarrow():
        raise UserError(f"--result={result}: Parquet needs pyarrow: pip install pyarrow")
    return formats[suffix]


def has_pyarrow() -> bool:
    """Whether pyarrow is installed, which Parquet files need."""
    return importlib.util.find_spec("pyarrow") is not None


def one_line(text: str) -> str:
    """The text with control characters escaped, so that it fits in a line of a text file."""
    if text.isprintable():
        return text
    return "".join(c if c >= " " and c != "\x7f" else repr(c)[1:-1] for c in text)


class ResultShards:
    """The finished shards of a result.

    Args:
      result: the file to write.
      settings: everything that determines the rows; only a run with the same settings can resume.

    Raises:
      UserError: an unfinished result has different settings, or its reports are damaged.
    """

    def __init__(self, result: Path, settings: Mapping[str, Any]) -> None:
        self.folder = result.with_name(f"{result.name}.partial")
        if self.folder.is_file():
            raise UserError(f"{self.folder} is from an earlier version: delete it to start over")
        self._reports = Reports(self.folder, _FORM, _SCHEMA, _REMEDY)
        self._settings = {key: _digest(value) for key, value in settings.items()}
        for report in self._all().values():
            given = report["settings"]
            keys = {**given, **self._settings}
            other = [key for key in keys if given.get(key) != self._settings.get(key)]
            if other:
                raise UserError(
                    f"{self.folder} was started with different {', '.join(other)};"
                    " delete it to start over"
                )

    def gaps(
        self, start: int, stop: int | None, total: int | None, batch_size: int
    ) -> list[tuple[int, int | None]]:
        """Ranges of the images `start` to `stop - 1` (`stop` None: to the end) still to be done.

        A shard that ends inside a batch was the last of a run over fewer images: it is redone.

        Args:
          total: number of all images; None (like `stop`) if unknown until they are read.
          batch_size: images per batch.

        Returns:
          (first, stop) of each range.

        Raises:
          UserError: the rows of a shard were altered.
        """
        gaps, at = [], start
        for first, report in self._all().items():
            end = first + report["items"]
            if end <= at or (stop is not None and first >= stop):
                continue
            is_cut = end % batch_size and end != total
            if is_cut or (total is not None and end > total) or not self._is_whole(report):
                continue
            if first > at:
                gaps.append((at, first))
            at = end
        if stop is None:  # standard input can be read only once: a single range
            return [(gaps[0][0] if gaps else at, None)]
        return gaps if at >= stop else [*gaps, (at, stop)]

    def add(self, first: int, rows: Sequence[bytes], items: int, bad_items: int) -> None:
        """Writes a finished shard: the rows of `items` images, starting at image `first`."""
        name, data = f"{first:012d}", b"".join(rows)
        atomic_write(self.folder / name, data)
        report = {"name": name, "settings": self._settings, "items": items, "bad_items": bad_items}
        digest = hashlib.sha256(data).hexdigest()
        self._reports.add({**report, "bytes": len(data), "sha256": digest})

    def totals(self, total: int | None) -> tuple[int, int]:
        """The number of images and of bad images in the result."""
        reports = self._joined(total)
        return sum(r["items"] for r in reports), sum(r["bad_items"] for r in reports)

    def join(self, total: int | None, header: bytes) -> Path:
        """Writes the header and all rows, in order, to a file in the folder; returns its path."""
        self.folder.mkdir(parents=True, exist_ok=True)
        joined = self.folder / "joined"
        with open(joined, "wb") as target:
            target.write(header)
            for report in self._joined(total):
                mirror.fetch(self.folder / report["name"])
                with open(self.folder / report["name"], "rb") as source:
                    shutil.copyfileobj(source, target)
        return joined

    def clean(self) -> None:
        """Removes the shards, once the result is complete."""
        shutil.rmtree(self.folder)

    def _all(self) -> dict[int, dict[str, Any]]:
        """The reports by the number of their first image, in order."""
        found = {}
        for name, report in self._reports.all().items():
            if not name.isdecimal() or report["bad_items"] > report["items"]:
                raise state.damaged(self.folder / f"{name}.json", "invalid image numbers", _REMEDY)
            found[int(name)] = report
        return found

    def _joined(self, total: int | None) -> list[dict[str, Any]]:
        """The reports of the consecutive shards, starting at image 0, that make up the result."""
        chosen, at = [], 0
        for first, report in self._all().items():
            if first == at and (total is None or first < total):
                chosen.append(report)
                at += report["items"]
        return chosen

    def _is_whole(self, report: dict[str, Any]) -> bool:
        """Whether the file of rows exists. Raises UserError if it was altered."""
        path = self.folder / report["name"]
        if not path.exists():
            return False
        if path.stat().st_size != report["bytes"] or not (
            mirror.is_placeholder(path) or sha256(path) == report["sha256"]
        ):
            raise state.damaged(path, "its checksum differs", _REMEDY)
        return True


class ShardWriter:
    """Collects the rows of consecutive images, starting at image `first`.

    Writes a shard every SHARD_SECONDS, and when the `with` block ends.
    """

    def __init__(self, shards: ResultShards, first: int) -> None:
        self._shards, self._first = shards, first
        self._begin()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish_shard()

    def append(self, rows: bytes, items: int, bad_items: int) -> None:
        """Adds the rows of a batch; they survive a kill once their shard is written."""
        self._rows.append(rows)
        self._items += items
        self._bad_items += bad_items
        if time.monotonic() - self._begun > SHARD_SECONDS:
            self.finish_shard()

    def finish_shard(self) -> None:
        """Writes the rows collected so far as a shard."""
        if self._items:
            self._shards.add(self._first, self._rows, self._items, self._bad_items)
            self._first += self._items
            self._begin()

    def _begin(self) -> None:
        self._rows: list[bytes] = []
        self._items = self._bad_items = 0
        self._begun = time.monotonic()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
