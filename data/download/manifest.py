"""Download manifest: an append-only log with one line per finished row.

The file survives kill -9: a line is written as soon as a row is done, and an incomplete last line
is dropped when the file is opened again. Each line ends with a checksum of everything up to it
(`state.Seal`); files older than these checksums are continued without them. If a row has several
lines, the last one counts. Only one byte per row is kept in memory.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.common.errors import UserError
from data.common.files import sha256
from data.common.state import Seal, is_count, is_inside

PENDING, OK, CONVERTED = 0, 1, 2
"""Codes of rows. CONVERTED also means OK, but the stored file differs from the downloaded body."""

REPEATED = "repeated"
"""The kind of failure of a row whose body many URLs returned."""

LOST = "lost"
"""The kind of failure of a row whose file was deleted or altered after the download."""

_COLUMNS = ("row", "url", "status", "file", "bytes", "sha256", "width", "height", "error")
_LINE = re.compile(
    r"(\d{1,15})\t([^\t]*)\t([^\t]+)\t([^\t]*)\t(\d{1,15})\t([0-9a-f]{64})?\t(\d{1,9})\t(\d{1,9})\t([^\t]*)",
    re.ASCII,
)
_HEADER_LINES = 2
_TAIL_BYTES = 1 << 20  # at the end of the file, searched for the last complete line
_MAX_KINDS = 256  # codes are bytes
_SHOWN_KINDS = 20


class Entry(NamedTuple):
    """A line of the manifest.

    `row` counts from 0 in its part of the list; `status` is ok, converted or the kind of failure;
    `file` is relative to the folder of images; `bytes`, `sha256`, `width` and `height` (in pixels)
    describe that file.
    """

    row: int
    url: str
    status: str
    file: str = ""
    bytes: int = 0
    sha256: str = ""
    width: int = 0
    height: int = 0
    error: str = ""


class Settings(NamedTuple):
    """The settings that a manifest was started with, and whether its lines have checksums."""

    values: dict[str, Any]
    is_sealed: bool = True


def read_settings(path: Path) -> Settings:
    """The settings that a manifest was started with; empty if it does not exist or is empty.

    Raises:
        UserError: it cannot be read, or is not a manifest.
    """
    try:
        with open(path, "rb") as file:
            line = file.readline()
        if not line.endswith(b"\n"):
            return Settings({})
        is_sealed = not line.endswith(b"}\n")
        values = json.loads((Seal().opened(line) if is_sealed else line)[1:])
        if not is_count(values["rows"]):
            raise ValueError
        return Settings(values, is_sealed)
    except FileNotFoundError:
        return Settings({})
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(
            f"{path}:1: not a manifest of a download, or damaged; delete it to start over,"
            " or give another --save_dir"
        ) from None


class Manifest:
    """The manifest of one part of a list, opened for appending.

    Args:
        path: the file; created if it does not exist.
        settings: everything that determines the output; a manifest with other settings is refused.
        rows: number of rows of the part.

    Attributes:
        codes: one byte per row: PENDING, OK, CONVERTED or the code of a kind of failure.
        stored_bytes: total size of the files of OK rows.

    Raises:
        UserError: it has other settings or is damaged, or another process is writing it.
    """

    def __init__(self, path: Path, settings: dict[str, Any], rows: int) -> None:
        self.path = path
        self.codes = bytearray(rows)
        self.stored_bytes = 0
        self._kinds = ["pending", "ok", "converted"]
        self._code_of = {kind: code for code, kind in enumerate(self._kinds)}
        self._is_sealed, self._seal = True, Seal()
        try:
            self._file = open(path, "a+b")  # noqa: SIM115
        except IsADirectoryError:
            raise UserError(f"{path} is a folder; give another --save_dir") from None
        try:
            self._lock()
            _drop_cut_line(self._file)
            if self._file.tell() == 0:
                header = f"# {json.dumps(settings)}", "#" + "\t".join((*_COLUMNS, "crc32c"))
                self._file.writelines(self._seal.sealed(line.encode()) for line in header)
                self._file.flush()
            else:
                self._check_settings(settings)
                self._load()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, entry: Entry) -> None:
        """Appends the final result of a row; it survives if the process is killed next."""
        fields = [str(field) for field in entry[:-1]] + [" ".join(entry.error.split())]
        text = "\t".join(fields).encode("utf-8", "backslashreplace")
        self._file.write(self._seal.sealed(text) if self._is_sealed else text + b"\n")
        self._file.flush()
        self._note(entry.row, entry.status, entry.bytes)

    def is_ok(self, row: int) -> bool:
        return self.codes[row] in (OK, CONVERTED)

    def kind(self, row: int) -> str:
        """`pending`, `ok`, `converted` or the kind of failure."""
        return self._kinds[self.codes[row]]

    def counts(self) -> dict[str, int]:
        """Number of rows by kind that occurs; they add up to the rows of the part."""
        found = ((kind, self.codes.count(code)) for code, kind in enumerate(self._kinds))
        return {kind: count for kind, count in found if count}

    def forget_failures(self, *kinds: str) -> None:
        """Makes failed rows of these kinds (without arguments, of all kinds) pending again.

        Their old lines stay in the file until later ones replace them.
        """
        failed = bytearray(range(_MAX_KINDS))
        for code, kind in enumerate(self._kinds):
            if code > CONVERTED and (not kinds or kind in kinds):
                failed[code] = PENDING
        self.codes = bytearray(self.codes.translate(failed))

    def entries(self) -> Iterator[Entry]:
        """All lines so far, including those that a later line replaces."""
        return self._entries(Seal())

    def stored(self) -> Iterator[Entry]:
        """The last line of each OK row; ignores lines appended during the iteration."""
        last = np.zeros(len(self.codes), np.int64)
        for number, entry in enumerate(self.entries()):
            last[entry.row] = number
        for number, entry in enumerate(self.entries()):
            if last[entry.row] == number and self.is_ok(entry.row):
                yield entry

    def _entries(self, seal: Seal) -> Iterator[Entry]:
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    text = seal.opened(line) if self._is_sealed else line[:-1]
                    if number > _HEADER_LINES or not text.startswith(b"#"):
                        yield self._parsed(text.decode())
                except ValueError as error:
                    raise UserError(
                        f"{self.path}:{number}: not a line of a download ({error}); delete this"
                        " line and all after it, and their rows are asked for again"
                    ) from None

    def _note(self, row: int, status: str, size: int) -> None:
        code = self._code_of.get(status)
        if code is None:
            if len(self._kinds) == _MAX_KINDS:  # all further kinds count as the last one
                status = self._kinds[-1]
            else:
                self._code_of[status] = len(self._kinds)
                self._kinds.append(status)
            code = self._code_of[status]
        self.stored_bytes += size * ((code in (OK, CONVERTED)) - self.is_ok(row))
        self.codes[row] = code

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{self.path}: another download is writing it") from None
        except OSError:
            pass  # a file system without locks

    def _check_settings(self, settings: dict[str, Any]) -> None:
        stored, self._is_sealed = read_settings(self.path)
        settings = json.loads(json.dumps(settings))
        other = [key for key in {**stored, **settings} if stored.get(key) != settings.get(key)]
        if other:
            raise UserError(
                f"{self.path} was started with other settings ({', '.join(other)});"
                " give another --save_dir, or the same list and options"
            )

    def _load(self) -> None:
        for entry in self._entries(self._seal):
            self._note(entry.row, entry.status, entry.bytes)

    def _parsed(self, text: str) -> Entry:
        match = _LINE.fullmatch(text)
        if match is None:
            raise ValueError("not its fields")
        row, url, status, file, size, sha256, width, height, error = match.groups("")
        if int(row) >= len(self.codes):
            raise ValueError(f"row {row} of {len(self.codes)}")
        if file and not is_inside(file):
            raise ValueError("a file outside the folder")
        return Entry(int(row), url, status, file, int(size), sha256, int(width), int(height), error)


def _drop_cut_line(file: Any) -> None:
    """Removes an incomplete last line left by a killed process."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL_BYTES))
    tail = file.read()
    file.truncate(size - len(tail) + tail.rfind(b"\n") + 1)
    file.seek(0, os.SEEK_END)


class Totals(NamedTuple):
    """Number of rows by kind (ok, converted, pending, kinds of failure), and bytes of all files."""

    kinds: dict[str, int]
    stored_bytes: int

    @property
    def rows(self) -> int:
        return sum(self.kinds.values())

    @property
    def ok(self) -> int:
        return self.kinds.get("ok", 0) + self.kinds.get("converted", 0)

    @property
    def pending(self) -> int:
        return self.kinds.get("pending", 0)

    @property
    def failed(self) -> dict[str, int]:
        """Number of failed rows by kind, most frequent first."""
        others = {k: n for k, n in self.kinds.items() if k not in ("ok", "converted", "pending")}
        return dict(sorted(others.items(), key=lambda item: (-item[1], item[0])))

    def __str__(self) -> str:
        """A line of counts, then a line per reason of failure."""
        lines = [
            f"{self.rows} rows: {self.ok} ok ({self.kinds.get('converted', 0)} converted),"
            f" {sum(self.failed.values())} failed, {self.pending} pending;"
            f" {self.stored_bytes / 1e6:.1f} MB"
        ]
        reasons = list(self.failed.items())
        lines += [f"  {count:>9} {kind}" for kind, count in reasons[:_SHOWN_KINDS]]
        if len(reasons) > _SHOWN_KINDS:
            rest = sum(count for _, count in reasons[_SHOWN_KINDS:])
            lines.append(f"  {rest:>9} for {len(reasons) - _SHOWN_KINDS} other reasons")
        return "\n".join(lines)


def totals(manifests: Sequence[Manifest]) -> Totals:
    """The combined totals of several manifests."""
    kinds: dict[str, int] = {}
    for manifest in manifests:
        for kind, count in manifest.counts().items():
            kinds[kind] = kinds.get(kind, 0) + count
    return Totals(kinds, sum(manifest.stored_bytes for manifest in manifests))


class Repeated(NamedTuple):
    """A body that many URLs returned, in `rows` rows."""

    sha256: str
    rows: int
    example_url: str


def mark_repeated(manifests: Sequence[Manifest], urls: int) -> list[Repeated]:
    """Marks rows as failed if at least `urls` different URLs returned the same body.

    Such a body is a placeholder that is not in any list yet.

    Returns:
        the bodies, most frequent first.
    """
    entries = (entry for manifest in manifests for entry in manifest.entries() if entry.sha256)
    keys = np.sort(np.fromiter((_key(entry) for entry in entries), np.uint64))
    last = keys[urls - 1 :]  # where a key occurs `urls` times, the first of them is equal
    often = set(last[last == keys[: len(last)]].tolist())
    if not often:
        return []
    different: dict[str, set[int]] = {}
    for entry in (entry for manifest in manifests for entry in manifest.stored()):
        if _key(entry) in often:
            known = different.setdefault(entry.sha256, set())
            if len(known) < urls:
                known.add(hash(entry.url))
    repeated: dict[str, Repeated] = {}
    for manifest in manifests:
        for entry in manifest.stored():
            if len(different.get(entry.sha256, ())) >= urls:
                before = repeated.get(entry.sha256, Repeated(entry.sha256, 0, entry.url))
                repeated[entry.sha256] = before._replace(rows=before.rows + 1)
                reason = f"the same body came from {urls} or more URLs"
                manifest.append(entry._replace(status=REPEATED, error=reason))
    return sorted(repeated.values(), key=lambda body: (-body.rows, body.sha256))


def _key(entry: Entry) -> int:
    """The first 64 bits of a body's SHA-256."""
    return int(entry.sha256[:16], 16)


def mark_lost(manifest: Manifest, is_kept: Callable[[Entry], bool]) -> int:
    """Marks OK rows as lost if `is_kept` is false for them; returns their number."""
    lost: dict[int, Entry] = {}
    for entry in manifest.entries():
        lost.pop(entry.row, None)  # only the last line of a row counts
        if manifest.is_ok(entry.row) and not is_kept(entry):
            lost[entry.row] = entry
    for entry in lost.values():
        reason = "the file was deleted or altered after it was downloaded"
        manifest.append(entry._replace(status=LOST, sha256="", error=reason))
    if lost:
        print(
            f"{manifest.path}: {len(lost)} images were deleted or altered since;"
            " they are downloaded again",
            file=sys.stderr,
        )
    return len(lost)


def is_whole(path: Path, entry: Entry, by_hash: bool) -> bool:
    """Whether the file of a row exists with the same size and, if `by_hash`, the same content."""
    try:
        is_as_long = path.stat().st_size == entry.bytes
    except (FileNotFoundError, NotADirectoryError):
        return False
    return is_as_long and (not by_hash or sha256(path) == entry.sha256)
