"""List files: one row per image with `class:confidence` labels (spec section 1).

A row is `image<TAB>class:confidence<TAB>class:confidence...`. Real lists also hold runs of blanks,
Windows line ends, a class without a confidence (which means 1.0) and the confidence -1 (unknown).
Every row is either parsed or refused with its file and line; only empty lines are skipped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

from data.common.errors import UserError
from data.common.files import refuse_other_encodings
from data.common.sharding import WHOLE, Shard

UNKNOWN = -1.0
"""The confidence of an unverified label, which is masked out of the loss."""

MAX_LINE_BYTES = 4 << 20
"""Longest row that is read: one with all 11,166 classes takes 0.2 MiB. A binary file may have no
line ends at all; it is refused before it fills the memory."""

CHUNK_BYTES = 1 << 20
"""Bytes of a list that are read at a time."""

_LARGEST_CLASS = 2**31 - 1
_CACHED_LABELS = 1 << 16
_BOM = b"\xef\xbb\xbf"  # written by Windows editors
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_LABEL_WITH_CONFIDENCE = re.compile(r"[0-9]+:[-+.0-9eE]+")


class ListError(UserError):
    """A list file or a row that cannot be used; the message has the file and the line."""


class Row(NamedTuple):
    """One image and its labels.

    Each class occurs once: if a row repeats a class, the last confidence counts, as in the released
    code, which filled a dense vector. `repeated` is the number of labels overridden in this way.
    """

    image: str
    classes: tuple[int, ...]
    confidences: tuple[float, ...]
    repeated: int = 0


class Chunk(NamedTuple):
    """Whole lines of a file: `size` bytes from byte `offset`."""

    path: str
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes of these lines."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    def where(self, lines_before: int) -> str:
        """`path:line` of the line that `lines_before` lines of the chunk precede."""
        return f"{self.path}:{_count_newlines(self.path, self.offset) + lines_before + 1}"


def chunks(path: str | os.PathLike, part: Shard = WHOLE) -> Iterator[Chunk]:
    """The file in chunks of whole lines, in order.

    Args:
        part: yields only this one of several contiguous parts of about equal size in bytes. Each
            line of the file is in exactly one part.

    Raises:
        UserError: the file is UTF-16.
        ListError: a line is longer than MAX_LINE_BYTES, so this is not a list file.
    """
    refuse_other_encodings(path)
    start, stop = _byte_range(path, part)
    with open(path, "rb") as file:
        start = _seek_line(file, start)
        while start < stop:
            end = file.seek(min(start + CHUNK_BYTES, stop) - 1)
            rest = file.readline(MAX_LINE_BYTES + 1)
            if len(rest) > MAX_LINE_BYTES:
                where = f"{os.fspath(path)}:{_count_newlines(path, end) + 1}"
                raise ListError(f"{where}: over {MAX_LINE_BYTES} bytes long; is this a list file?")
            end += len(rest)
            yield Chunk(os.fspath(path), start, end - start)
            start = end


def split_lines(text: bytes) -> list[str]:
    """Lines without line ends; the last may lack one. Invalid UTF-8 becomes surrogates."""
    text = text if text.endswith(b"\n") else text + b"\n"
    return text.replace(b"\r\n", b"\n").decode(errors="surrogateescape").split("\n")[:-1]


def read_rows(
    path: str | os.PathLike, class_num: int | None = None, part: Shard = WHOLE
) -> Iterator[Row]:
    """Rows of a list file in order, in constant memory.

    Args:
        path: the list file, UTF-8.
        class_num: classes outside 0..class_num-1 are refused; None accepts any class.
        part: see `chunks`.

    Raises:
        ListError: the first malformed row, as `path:line: reason`.
        OSError: the file cannot be read.
    """
    for chunk in chunks(path, part):
        for number, line in enumerate(split_lines(chunk.read())):
            try:
                row = _row(line, class_num)
            except ListError as error:
                raise ListError(f"{chunk.where(number)}: {error}") from None
            if row is not None:
                yield row


def parse_row(line: str, where: str = "row", class_num: int | None = None) -> Row | None:
    """The row of one line, with or without its line end; None if the line is empty.

    Args:
        where: start of the error message.
        class_num: see `read_rows`.

    Raises:
        ListError: the line is malformed, as `where: reason`.
    """
    try:
        return _row(line.removesuffix("\n").removesuffix("\r"), class_num)
    except ListError as error:
        raise ListError(f"{where}: {error}") from None


def _row(line: str, class_num: int | None) -> Row | None:
    split = split_row(line)
    if split is None:
        return None
    name, texts = split
    labels = [cached_label(text, class_num) for text in texts]
    last = dict(labels)
    return Row(name, tuple(last), tuple(last.values()), len(labels) - len(last))


def split_row(line: str) -> tuple[str, list[str]] | None:
    """The image name and the texts of the labels of a line; None if the line is empty.

    Args:
        line: without its line end.

    Raises:
        ListError: the line has no valid image name, or is not UTF-8.
    """
    if not line.isascii() and _SURROGATE.search(line):
        raise ListError("not UTF-8; convert the list, e.g. by iconv")
    name, tab, tail = line.partition("\t")
    if not tab or " " in name:
        if not line.strip(" \t\r"):
            return None
        name, tail = _split_at_blank(name, tab, tail)
    _check_name(name)
    return name, tail.split()


def parse_label(text: str, class_num: int | None) -> tuple[int, float]:
    """Class and confidence of `class:confidence`, or of `class` alone, which means 1.0.

    Raises:
        ListError: the text has neither form, or a number is out of range.
    """
    name, colon, value = text.partition(":")
    if not (name.isascii() and name.isdecimal()):
        raise ListError(
            f"{_shown(text)} is not class:confidence (a name with blanks needs a tab after it)"
        )
    if len(name) > 18 or int(name) > _LARGEST_CLASS:
        raise ListError(f"{_shown(text)}: the class is out of range")
    if class_num is not None and int(name) >= class_num:
        raise ListError(f"class {name} is not in 0..{class_num - 1}")
    return int(name), _confidence(value) if colon else 1.0


cached_label = lru_cache(_CACHED_LABELS)(parse_label)
"""`parse_label` with a cache: lists repeat the same labels."""


def format_row(row: Row) -> str:
    """The row as one line of a list, without a line end; `parse_row` reads it back.

    Raises:
        ListError: the image name could not be read back: it is empty, holds control characters, has
            blanks at its ends, or ends like a label (`a 3:1`).
    """
    _check_name(row.image)
    if " " in row.image and _split_at_blank(row.image, "\t", "")[0] != row.image:
        raise ListError(f"the image name {_shown(row.image)} ends like a label")
    labels = "\t".join(
        [f"{c}:{_short(v)}" for c, v in zip(row.classes, row.confidences, strict=True)]
    )
    # Without labels, a trailing tab marks the end of a name that holds a blank.
    return f"{row.image}\t{labels}" if labels or " " in row.image else row.image


def count_lines(path: str | os.PathLike) -> int:
    """Number of lines of a file; the last one counts even without a line end."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return _count_newlines(path, size) + (file.read(1) not in (b"", b"\n"))


def _split_at_blank(name: str, tab: str, tail: str) -> tuple[str, str]:
    """Name and labels of a row with blanks before its first tab, or without a tab.

    A name followed by a tab may hold blanks. Text like `class:confidence` after a blank is still a
    label, because lists mix blanks and tabs.
    """
    name = name.strip(" ")
    if not tab:
        name, _, tail = name.partition(" ")
        return name, tail
    words = name.split(" ")
    while len(words) > 1 and (not words[-1] or _LABEL_WITH_CONFIDENCE.fullmatch(words[-1])):
        tail = f"{words.pop()}\t{tail}"
    return " ".join(words), tail


def _check_name(name: str) -> None:
    if not name:
        raise ListError("the image name is missing")
    if not name.isprintable() and _CONTROL.search(name):
        raise ListError(f"the image name {_shown(name)} holds a control character")
    if name[0] == " " or name[-1] == " ":
        raise ListError(f"the image name {_shown(name)} begins or ends with a blank")


def _confidence(text: str) -> float:
    try:
        value = float(text) if text.isascii() and "_" not in text else None
    except ValueError:
        value = None
    if value is None or not (0.0 <= value <= 1.0 or value == UNKNOWN):
        raise ListError(f"confidence {_shown(text)} is neither in 0..1 nor -1 (unknown)")
    return value


def _short(value: float) -> str:
    """A confidence as the released lists write it: 1, 0.9, -1."""
    return str(int(value)) if value == int(value) else repr(float(value))


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _byte_range(path: str | os.PathLike, part: Shard) -> tuple[int, int]:
    index, count = part
    if not 0 <= index < count:
        raise ListError(f"part {index}/{count}: the part must be in 0..{count - 1}")
    size = Path(path).stat().st_size
    return size * index // count, size * (index + 1) // count


def _seek_line(file: BinaryIO, start: int) -> int:
    """Seeks to the first line that begins at or after byte `start`; returns its position."""
    if start == 0:
        return len(_BOM) if file.read(len(_BOM)) == _BOM else 0
    file.seek(start - 1)
    file.readline()
    return file.tell()


def _count_newlines(path: str | os.PathLike, stop: int) -> int:
    """Line ends in the first `stop` bytes of a file."""
    count = 0
    with open(path, "rb") as file:
        while stop > 0 and (block := file.read(min(CHUNK_BYTES, stop))):
            count += block.count(b"\n")
            stop -= len(block)
    return count
