"""What became of each row of a download: an append-only file, a line for every final result.

The file survives kill -9: a line is handed to the system as soon as a row is done, and a last line
that was cut short is dropped when the file is opened again. Of several lines of a row the last one
counts. In memory there is one byte a row.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

PENDING, OK, CONVERTED = 0, 1, 2
"""Codes of rows. CONVERTED is OK too: what is stored is not byte for byte what was served."""

_COLUMNS = ("row", "url", "status", "file", "bytes", "sha256", "width", "height", "error")
_CUT_BYTES = 1 << 20
_MOST_KINDS = 256  # codes are bytes


class ManifestError(ValueError):
    """A manifest that cannot be continued; says which file and what to do."""


class Entry(NamedTuple):
    """A line of the manifest.

    `row` counts from 0 in its part of the list; `status` is ok, converted or the kind of failure;
    `file` is relative to the folder of images; `bytes`, `sha256`, `width` and `height` are its.
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


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that a manifest was begun with; none if it is not there or still empty."""
    try:
        with open(path, "rb") as file:
            line = file.readline()
        return json.loads(line[1:]) if line.endswith(b"\n") else {}
    except FileNotFoundError:
        return {}
    except ValueError:
        raise ManifestError(f"{path}:1: not a manifest of a download") from None


class Manifest:
    """The manifest of one part of a list, opened to be continued.

    Args:
        path: the file; made if it is not there.
        settings: whatever decides on the output. A manifest made with others is refused.
        rows: of the part.

    Attributes:
        codes: one byte a row: PENDING, OK, CONVERTED or a kind of failure.
        stored_bytes: of the files of the rows that are OK.

    Raises:
        ManifestError: other settings, a damaged file, or another process is writing it.
    """

    def __init__(self, path: Path, settings: dict[str, Any], rows: int) -> None:
        self.path = path
        self.codes = bytearray(rows)
        self.stored_bytes = 0
        self._kinds = ["pending", "ok", "converted"]
        self._code_of = {kind: code for code, kind in enumerate(self._kinds)}
        self._file = open(path, "a+b")  # noqa: SIM115
        try:
            self._lock()
            _drop_cut_line(self._file)
            if self._file.tell() == 0:
                header = f"# {json.dumps(settings)}\n#" + "\t".join(_COLUMNS) + "\n"
                self._file.write(header.encode())
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
        """Writes down a final result; it survives the process."""
        fields = [str(field) for field in entry[:-1]] + [" ".join(entry.error.split())]
        self._file.write("\t".join(fields).encode("utf-8", "backslashreplace") + b"\n")
        self._file.flush()
        self._note(entry.row, entry.status, entry.bytes)

    def is_ok(self, row: int) -> bool:
        return self.codes[row] in (OK, CONVERTED)

    def kind(self, row: int) -> str:
        """`pending`, `ok`, `converted` or the kind of failure."""
        return self._kinds[self.codes[row]]

    def counts(self) -> dict[str, int]:
        """Rows by kind, none of them zero; they add up to the rows of the part."""
        found = ((kind, self.codes.count(code)) for code, kind in enumerate(self._kinds))
        return {kind: count for kind, count in found if count}

    def forget_failures(self) -> None:
        """Makes all failed rows pending again; their lines stay until they get new ones."""
        failed = bytes(range(CONVERTED + 1)) + bytes(_MOST_KINDS - CONVERTED - 1)
        self.codes = bytearray(self.codes.translate(failed))

    def entries(self) -> Iterator[Entry]:
        """The lines so far, those that no longer count included."""
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.startswith(b"#"):
                    yield self._parsed(number, line)

    def _note(self, row: int, status: str, size: int) -> None:
        code = self._code_of.get(status)
        if code is None:
            if len(self._kinds) == _MOST_KINDS:  # 250 kinds of failure: the rest are one kind
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
            raise ManifestError(f"{self.path}: another download is writing it") from None
        except OSError:
            pass  # a file system without locks

    def _check_settings(self, settings: dict[str, Any]) -> None:
        stored = read_settings(self.path)
        settings = json.loads(json.dumps(settings))
        other = [key for key in {**stored, **settings} if stored.get(key) != settings.get(key)]
        if other:
            raise ManifestError(
                f"{self.path} was begun with another {', '.join(other)};"
                " give another --save_dir, or the same list and options"
            )

    def _load(self) -> None:
        for entry in self.entries():
            self._note(entry.row, entry.status, entry.bytes)

    def _parsed(self, number: int, line: bytes) -> Entry:
        try:
            row, url, status, file, size, sha256, width, height, error = (
                line.decode().rstrip("\n").split("\t")
            )
            entry = Entry(
                int(row), url, status, file, int(size), sha256, int(width), int(height), error
            )
            if not 0 <= entry.row < len(self.codes):
                raise ValueError
            return entry
        except ValueError:
            raise ManifestError(f"{self.path}:{number}: not a line of a download") from None


def _drop_cut_line(file: Any) -> None:
    """Removes what follows the last line end: the process was killed while it wrote."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _CUT_BYTES))
    tail = file.read()
    file.truncate(size - len(tail) + tail.rfind(b"\n") + 1)
    file.seek(0, os.SEEK_END)
