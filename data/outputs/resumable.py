"""Append-only output that survives kill -9: a run continues where it was stopped.

`<result>.partial` grows; `<result>.partial.json`, replaced at every commit, says how much of it
counts, its SHA-256 up to there, and with what settings it was begun. Of several processes each
fills a part of its own, and the parts are joined at the end. The result appears under its name when
it is whole.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.common import state
from data.common.errors import UserError

COMMIT_SECONDS = 2.0
"""At most so much work is lost to a kill."""

_COPIED_BYTES = 1 << 20
_FORM = "result journal"
_SCHEMA = {
    "settings": {"*": state.is_anything},
    **dict.fromkeys(("items", "bad_items", "bytes"), state.is_count),
    "sha256?": state.is_sha256,  # not in those of earlier versions
}
_REMEDY = "delete it to begin again"


class Part:
    """One process's share of the output, opened where its last commit left it.

    Attributes:
      items: how many are in it, those of an interrupted run included.
      bad_items: how many of them were unreadable.

    Args:
      result: the file that is to be made.
      settings: whatever decides on the bytes; a run continues only what was begun with the same.
      rank, ranks: which of how many shares this is.
      header: first bytes of the first share, which has to get items: an empty one is removed.

    Raises:
      UserError, StateError: an unfinished output with other settings, or damaged, is there.
    """

    def __init__(
        self,
        result: Path,
        settings: Mapping[str, Any],
        rank: int = 0,
        ranks: int = 1,
        header: bytes = b"",
    ) -> None:
        self.path = part_path(result, rank, ranks)
        self._settings = json.loads(json.dumps(settings))  # as it will be read again
        self._digest = hashlib.sha256()
        self.items, self.bad_items, self._bytes = self._committed()
        result.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "r+b" if self._bytes else "wb")  # noqa: SIM115
        self._file.truncate(self._bytes)
        self._file.seek(self._bytes)
        self._last_commit = time.monotonic()
        if not self._bytes and rank == 0:
            self._write(header)

    def __enter__(self) -> "Part":
        return self

    def __exit__(self, *_: object) -> None:
        self.commit()
        self._file.close()
        if not self.items:  # nothing to continue from
            journal_path(self.path).unlink()
            self.path.unlink()

    def append(self, data: bytes, items: int, bad_items: int) -> None:
        """Adds whole items; they count after the next commit, two seconds away at most."""
        self._write(data)
        self.items += items
        self.bad_items += bad_items
        if time.monotonic() - self._last_commit > COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Makes all that was appended survive: first the data, then the journal that vouches."""
        self._file.flush()
        os.fsync(self._file.fileno())
        journal = {
            "settings": self._settings,
            "items": self.items,
            "bad_items": self.bad_items,
            "bytes": self._bytes,
            "sha256": self._digest.hexdigest(),
        }
        state.write_document(journal_path(self.path), _FORM, journal)
        self._last_commit = time.monotonic()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._bytes += len(data)

    def _committed(self) -> tuple[int, int, int]:
        """Items, bad items and bytes of what an interrupted run has left; zeros if nothing."""
        journal = read_journal(self.path)
        if journal is None or not self.path.exists():
            return 0, 0, 0
        begin_again = f"; delete {journal_path(self.path)} to begin again"
        if journal["settings"] != self._settings:
            keys = {**journal["settings"], **self._settings}
            other = [k for k in keys if journal["settings"].get(k) != self._settings.get(k)]
            raise UserError(f"{self.path} was begun with another {', '.join(other)}{begin_again}")
        if self.path.stat().st_size < journal["bytes"]:
            raise UserError(f"{self.path} is shorter than its journal says{begin_again}")
        self._read(journal["bytes"])
        if journal.get("sha256") not in (None, self._digest.hexdigest()):
            raise UserError(f"{self.path} is damaged: its checksum differs{begin_again}")
        return journal["items"], journal["bad_items"], journal["bytes"]

    def _read(self, size: int) -> None:
        """Takes the first bytes of the file into the checksum."""
        with open(self.path, "rb") as file:
            while size and (block := file.read(min(size, _COPIED_BYTES))):
                self._digest.update(block)
                size -= len(block)


def part_path(result: Path, rank: int, ranks: int) -> Path:
    """Where the share of process `rank` grows."""
    share = f"-{rank:05d}-of-{ranks:05d}" if ranks > 1 else ""
    return result.with_name(f"{result.name}.partial{share}")


def journal_path(part: Path) -> Path:
    """The journal next to a share."""
    return part.with_name(part.name + ".json")


def read_journal(part: Path) -> dict[str, Any] | None:
    """What `Part.commit` wrote of a share; None where nothing was committed.

    Raises:
      StateError: it is damaged.
    """
    try:
        journal = state.read_document(journal_path(part), _FORM, _SCHEMA, _REMEDY)
    except FileNotFoundError:
        return None
    if journal["bad_items"] > journal["items"]:
        raise state.damaged(journal_path(part), "more bad items than items", _REMEDY)
    return journal


def totals(result: Path, ranks: int) -> tuple[int, int]:
    """Items of all shares together, and how many of them are bad."""
    parts = [part_path(result, rank, ranks) for rank in range(ranks)]
    journals = [journal for part in parts if (journal := read_journal(part))]
    return sum(j["items"] for j in journals), sum(j["bad_items"] for j in journals)


def join(result: Path, ranks: int) -> Path:
    """The file that holds all shares in order: the only one itself, or a new file next to them."""
    parts = [part_path(result, rank, ranks) for rank in range(ranks)]
    if ranks == 1:
        return parts[0]
    joined = _joined_path(result)
    with open(joined, "wb") as target:
        for part in filter(Path.exists, parts):  # a share without items has no file
            with open(part, "rb") as source:
                shutil.copyfileobj(source, target, _COPIED_BYTES)
    return joined


def clean(result: Path, ranks: int) -> None:
    """Removes shares and journals once the result stands under its name."""
    parts = [part_path(result, rank, ranks) for rank in range(ranks)]
    # The journals first: without them, nobody takes what is left for the work of a killed run.
    for path in [*map(journal_path, parts), *parts, _joined_path(result)]:
        path.unlink(missing_ok=True)


def _joined_path(result: Path) -> Path:
    return result.with_name(f"{result.name}.joining")
