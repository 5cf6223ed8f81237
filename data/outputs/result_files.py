"""Rows of a result in finished shards, so that a killed run continues.

The folder `<result>.partial` has a file of rows for every ten seconds of work, named by the number
of its first image, and its report. Shards begin and end at whole batches, so that any number of
processes may continue. When no image is left, the rows are joined, and the folder goes.
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

from data.common import state
from data.common.errors import UserError
from data.common.files import atomic_write, sha256
from data.common.finished import Reports

Row = TypeVar("Row")

SHARD_SECONDS = 10.0
"""At most so much work is lost to a kill."""

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
    """How rows become a file.

    Attributes:
      header: first bytes of the body.
      encode: a row's bytes; bodies of several processes are joined by laying them end to end.
      finish: makes the result out of the body, which it may move.
    """

    header: bytes
    encode: Callable[[Row], bytes]
    finish: Callable[[Path, Path], None] = os.replace


def choose_format(formats: dict[str, ResultFormat], result: str) -> ResultFormat:
    """The format that the suffix of `result` names.

    Raises:
      UserError: none of them, or its package is missing: said before the work, not after it.
    """
    suffix = Path(result).suffix.lower()
    if suffix not in formats:
        raise UserError(f"--result={result}: the name must end in {', '.join(formats)}")
    if suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError(f"--result={result}: Parquet needs pyarrow: pip install pyarrow")
    return formats[suffix]


def one_line(text: str) -> str:
    """Text that may stand in a line of a text file: control characters are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c >= " " and c != "\x7f" else repr(c)[1:-1] for c in text)


class ResultShards:
    """What is done of a result.

    Args:
      result: the file that is to be made.
      settings: whatever decides on the rows; a run continues only what was begun with the same.

    Raises:
      UserError, StateError: an unfinished result with other settings, or damaged, is there.
    """

    def __init__(self, result: Path, settings: Mapping[str, Any]) -> None:
        self.folder = result.with_name(f"{result.name}.partial")
        if self.folder.is_file():
            raise UserError(f"{self.folder} is of an earlier version: delete it to begin again")
        self._reports = Reports(self.folder, _FORM, _SCHEMA, _REMEDY)
        self._settings = {key: _digest(value) for key, value in settings.items()}
        for report in self._all().values():
            given = report["settings"]
            keys = {**given, **self._settings}
            other = [key for key in keys if given.get(key) != self._settings.get(key)]
            if other:
                raise UserError(
                    f"{self.folder} was begun with another {', '.join(other)};"
                    " delete it to begin again"
                )

    def gaps(
        self, start: int, stop: int | None, total: int | None, batch_size: int
    ) -> list[tuple[int, int | None]]:
        """What is left to do of the images from `start` to before `stop` (None: to the end).

        A shard that ends within a batch was the last one of fewer images: it is made again.

        Args:
          total: images in all; None where only reading them would show: `stop` is None then.
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
        if stop is None:  # what is read once has to be read in one go
            return [(gaps[0][0] if gaps else at, None)]
        return gaps if at >= stop else [*gaps, (at, stop)]

    def add(self, first: int, rows: Sequence[bytes], items: int, bad_items: int) -> None:
        """Writes the rows of images, and remembers them as finished."""
        name, data = f"{first:012d}", b"".join(rows)
        atomic_write(self.folder / name, data)
        report = {"name": name, "settings": self._settings, "items": items, "bad_items": bad_items}
        digest = hashlib.sha256(data).hexdigest()
        self._reports.add({**report, "bytes": len(data), "sha256": digest})

    def totals(self, total: int | None) -> tuple[int, int]:
        """Images in the result, and how many of them are bad."""
        reports = self._joined(total)
        return sum(r["items"] for r in reports), sum(r["bad_items"] for r in reports)

    def join(self, total: int | None, header: bytes) -> Path:
        """A file of all rows in order, behind the header."""
        self.folder.mkdir(parents=True, exist_ok=True)
        joined = self.folder / "joined"
        with open(joined, "wb") as target:
            target.write(header)
            for report in self._joined(total):
                with open(self.folder / report["name"], "rb") as source:
                    shutil.copyfileobj(source, target)
        return joined

    def clean(self) -> None:
        """Removes the shards once the result stands under its name."""
        shutil.rmtree(self.folder)

    def _all(self) -> dict[int, dict[str, Any]]:
        """The reports by the number of their first image, in order."""
        found = {}
        for name, report in self._reports.all().items():
            if not name.isdecimal() or report["bad_items"] > report["items"]:
                raise state.damaged(self.folder / f"{name}.json", "not its numbers", _REMEDY)
            found[int(name)] = report
        return found

    def _joined(self, total: int | None) -> list[dict[str, Any]]:
        """The reports whose rows, in order, are the result."""
        chosen, at = [], 0
        for first, report in self._all().items():
            if first == at and (total is None or first < total):
                chosen.append(report)
                at += report["items"]
        return chosen

    def _is_whole(self, report: dict[str, Any]) -> bool:
        """Whether the rows are there as they were written. Raises UserError if they are not."""
        path = self.folder / report["name"]
        if not path.exists():
            return False
        if path.stat().st_size != report["bytes"] or sha256(path) != report["sha256"]:
            raise state.damaged(path, "its checksum differs", _REMEDY)
        return True


class ShardWriter:
    """Gathers the rows of the images from the `first`-th on.

    Finishes a shard of them every few seconds, and when the block ends.
    """

    def __init__(self, shards: ResultShards, first: int) -> None:
        self._shards, self._first = shards, first
        self._begin()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish_shard()

    def append(self, rows: bytes, items: int, bad_items: int) -> None:
        """Adds the rows of a batch; they count once their shard is finished."""
        self._rows.append(rows)
        self._items += items
        self._bad_items += bad_items
        if time.monotonic() - self._begun > SHARD_SECONDS:
            self.finish_shard()

    def finish_shard(self) -> None:
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
