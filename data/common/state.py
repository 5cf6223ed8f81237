"""Files that later runs rely on: documents and logs with checksums, and safe file names.

A document is a JSON object with `format`, `version`, and `checksum`, the SHA-256 of everything else
in it in canonical form. A document without these three is from an earlier version: only its schema
is checked. Each line of a log ends with the CRC-32C of the log up to there, so that an altered,
lost, repeated or displaced line is detected, and only the end of the file may be missing.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import google_crc32c

from data.common import mirror, storage
from data.common.errors import UserError
from data.common.files import atomic_write

Schema = Mapping[str, "Schema"] | list["Schema"] | Callable[[Any], bool]
"""What a value must be: an object's keys (`key?` may be missing, `*` means any other), a list of
one kind of item, or a predicate whose docstring says what it requires."""

_HEAD = ("format", "version", "checksum")
_LARGEST = 1 << 63
_SHOWN = 200  # characters of what is wrong
_DRIVE = re.compile(r"[A-Za-z]:")
_SEAL_BYTES = 10  # tab, eight digits, line end


class StateError(UserError):
    """A file that cannot be trusted; names the file, what is wrong with it, and the fix."""


def write_document(
    path: str | os.PathLike, form: str, content: Mapping[str, Any], version: int = 1
) -> None:
    """Atomically writes a document of the format called `form`. Raises OSError."""
    plain = json.loads(json.dumps({"format": form, "version": version, **content}))
    head = {"format": form, "version": version, "checksum": _checksum(plain)}
    atomic_write(path, json.dumps({**head, **plain}, indent=1) + "\n")


def read_document(
    path: str | os.PathLike, form: str, schema: Schema, remedy: str, version: int = 1
) -> dict[str, Any]:
    """The content of a document, after checking its checksum and schema.

    Args:
        remedy: completes "FILE is damaged (...): ".

    Raises:
        FileNotFoundError: there is none.
        StateError: it is damaged, of another format, or of a newer version.
        UserError: it cannot be read from its URL.
    """
    mirror.fetch(path)
    try:
        at_url = storage.is_url(path)
        document = _parsed(storage.read(os.fspath(path)) if at_url else Path(path).read_bytes())
        head = {key: document.pop(key) for key in _HEAD if key in document}
        if head:
            content = {**document, **{key: head[key] for key in _HEAD[:2] if key in head}}
            if head.get("checksum") != _checksum(content):
                raise ValueError("its checksum does not match its content")
            if head["format"] != form:
                raise ValueError(f"it is a {head['format']}, not a {form}")
            if not (is_count(head["version"]) and head["version"] <= version):
                raise ValueError(f"version {head['version']}; this program supports {version}")
        if problem := _problem(document, schema, ""):
            raise ValueError(problem)
        return document
    except (FileNotFoundError, UserError):
        raise
    except OSError as error:
        raise StateError(f"{os.fspath(path)} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise damaged(path, str(error), remedy) from None


def damaged(path: str | os.PathLike, what: str, remedy: str) -> StateError:
    """The error that says what is wrong with a file, in one line, and what to do."""
    what = textwrap.shorten(what[:_SHOWN], _SHOWN, placeholder=" ...")
    return StateError(f"{os.fspath(path)} is damaged ({what}): {remedy}")


class Seal:
    """The running checksum of a log: pass it every line from the first on, written or read."""

    def __init__(self) -> None:
        self._crc = 0

    def sealed(self, text: bytes) -> bytes:
        """The line to write for `text`, which must not have a line end."""
        self._crc = google_crc32c.extend(self._crc, text)
        return b"%s\t%08x\n" % (text, self._crc)

    def opened(self, line: bytes) -> bytes:
        """The text of a line that was read.

        Raises:
            ValueError: this is not the next line that was written.
        """
        text = line[:-_SEAL_BYTES]
        if self.sealed(text) != line:
            raise ValueError("its checksum does not match the lines up to here")
        return text


def is_count(value: Any) -> bool:
    """a whole number from 0"""
    return type(value) is int and 0 <= value < _LARGEST


def is_number(value: Any) -> bool:
    """a number"""
    if type(value) is int:
        return abs(value) < _LARGEST
    return isinstance(value, float) and not math.isnan(value)


def is_text(value: Any) -> bool:
    """a text"""
    return isinstance(value, str)


def is_sha256(value: Any) -> bool:
    """a SHA-256 of 64 hexadecimal digits"""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def is_inside(value: Any) -> bool:
    """a file name that stays inside the folder"""
    return (
        isinstance(value, str)
        and not set(value) & set("\\\0\n")
        and not _DRIVE.match(value)
        and all(part not in ("", ".", "..") for part in value.split("/"))
    )


def is_name(value: Any) -> bool:
    """the name of a file of the folder"""
    return is_inside(value) and "/" not in value


def is_anything(_: Any) -> bool:
    """anything"""
    return True


def _checksum(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _parsed(data: bytes) -> dict[str, Any]:
    document = json.loads(data.decode(), object_pairs_hook=_without_repeats)
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    return document


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _problem(value: Any, schema: Schema, where: str) -> str:
    return next(_problems(value, schema, where), "")


def _problems(value: Any, schema: Schema, where: str) -> Iterator[str]:
    """Where `value`, which is at `where` in the document, violates the schema."""
    here = where or "the document"
    if isinstance(schema, list):
        if not isinstance(value, list):
            yield f"{here} should be a list"
            return
        for number, item in enumerate(value):
            yield from _problems(item, schema[0], f"{where}[{number}]")
    elif isinstance(schema, Mapping):
        if not isinstance(value, dict):
            yield f"{here} should be an object"
            return
        known = {key.removesuffix("?"): key for key in schema if key != "*"}
        yield from (f"{here} has no {key}" for key in known if key not in value and key in schema)
        for key, item in value.items():
            if key not in known and "*" not in schema:
                yield f"{here} has an unknown {key!r:.40}"
                continue
            inner = schema[known.get(key, "*")]
            yield from _problems(item, inner, f"{where}.{key:.40}".removeprefix("."))
    elif not schema(value):
        yield f"{here} should be {schema.__doc__}, not {value!r:.40}"
