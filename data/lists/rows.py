"""List files: one row per image with `class:confidence` labels (spec section 1), streamed.

A row is `image<TAB>class:confidence<TAB>class:confidence...`. Real lists also hold runs of blanks,
Windows line ends, a class without a confidence (which means 1.0) and the confidence -1 (unknown).
Every row is either parsed or refused by name of file and line; only empty lines are passed over.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from data.common.errors import UserError

UNKNOWN = -1.0
"""The confidence of a tag that nobody judged: masked out of the loss."""

MAX_LINE_BYTES = 4 << 20
"""Longest row that is read: all 11,166 classes take 0.2 MiB; a binary file has no line end."""

_BLOCK_BYTES = 1 << 20
_LARGEST_CLASS = 2**31 - 1
_CACHED_TAILS = 1 << 16
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_TAG_WITH_CONFIDENCE = re.compile(r"[0-9]+:[-+.0-9eE]+")


class ListError(UserError):
    """A list file, or one of its rows, that cannot be used: names the file and the line."""


class Row(NamedTuple):
    """One image and its tags.

    A class occurs once: where a row repeats one, the last confidence wins, as it did when the
    released code filled a dense vector; `repeated` counts the tags that lost.
    """

    image: str
    classes: tuple[int, ...]
    confidences: tuple[float, ...]
    repeated: int = 0


def read_rows(
    path: str | os.PathLike, class_num: int | None = None, part: tuple[int, int] = (0, 1)
) -> Iterator[Row]:
    """Rows of a list file in order, in constant memory.

    Args:
        path: the list file, UTF-8.
        class_num: classes outside 0..class_num-1 are refused; None accepts any class.
        part: (i, n) reads only the i-th of n contiguous parts of about equal bytes. The rows of
            the parts, one part after the other, are the rows of the whole list.

    Raises:
        ListError: the first row that breaks the format, as `path:line: reason`.
        OSError: the file cannot be read.
    """
    parser = _Parser(class_num)
    start, stop = _byte_range(path, part)
    with open(path, "rb") as file:
        start = _seek_line(file, start)
        done = 0  # whole lines behind us since `start`
        for block in _whole_lines(file, path, start, stop):
            try:
                lines = block.decode("utf-8").replace("\r\n", "\n").split("\n")
            except UnicodeDecodeError as error:
                bad = done + block.count(b"\n", 0, error.start)
                where = _where(path, start, bad)
                raise ListError(f"{where}: not UTF-8; convert the list, e.g. by iconv") from error
            lines.pop()  # what follows the last line end of a block is empty
            for number, line in enumerate(lines):
                try:
                    row = parser.parse(line)
                except ListError as error:
                    raise ListError(f"{_where(path, start, done + number)}: {error}") from None
                if row is not None:
                    yield row
            done += len(lines)


def parse_row(line: str, where: str = "row", class_num: int | None = None) -> Row | None:
    """One line of a list, with or without its line end; None if it is empty.

    Raises:
        ListError: `where: reason`.
    """
    try:
        return _Parser(class_num).parse(line.removesuffix("\n").removesuffix("\r"))
    except ListError as error:
        raise ListError(f"{where}: {error}") from None


def format_row(row: Row) -> str:
    """The row as one line of a list, without a line end; `parse_row` of it gives the row again.

    Raises:
        ListError: the image name cannot be written so that it is read back: it is empty, holds
            control characters, has blanks at its ends, or ends like a tag (`a 3:1`).
    """
    _check_name(row.image)
    if " " in row.image and _split_at_blank(row.image, "\t", "")[0] != row.image:
        raise ListError(f"the image name {_shown(row.image)} ends like a tag")
    tags = "\t".join(
        [f"{c}:{_short(v)}" for c, v in zip(row.classes, row.confidences, strict=True)]
    )
    # Without a tag, a trailing tab still says where a name that holds a blank ends.
    return f"{row.image}\t{tags}" if tags or " " in row.image else row.image


def count_lines(path: str | os.PathLike) -> int:
    """Number of lines of a file, the last one counted even without a line end."""
    lines, last = 0, b"\n"
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            lines += block.count(b"\n")
            last = block[-1:]
    return lines + (last != b"\n")


class _Tags(dict):
    """Tag text -> (class, confidence); a list has few different tags, so each is parsed once."""

    def __init__(self, class_num: int | None) -> None:
        super().__init__()
        self._class_num = class_num

    def __missing__(self, text: str) -> tuple[int, float]:
        name, colon, value = text.partition(":")
        if not (name.isascii() and name.isdecimal()):
            raise ListError(
                f"{_shown(text)} is not class:confidence (a name with blanks needs a tab after it)"
            )
        if len(name) > 18 or int(name) > _LARGEST_CLASS:
            raise ListError(f"{_shown(text)}: the class is out of range")
        if self._class_num is not None and int(name) >= self._class_num:
            raise ListError(f"class {name} is not in 0..{self._class_num - 1}")
        tag = int(name), _confidence(value) if colon else 1.0
        if len(self) < _CACHED_TAILS:
            self[text] = tag
        return tag


class _Parser:
    """Parses lines; remembers tags, and whole rows of tags, which repeat within a synset."""

    def __init__(self, class_num: int | None) -> None:
        self._tags = _Tags(class_num)
        self._tails: dict[str, tuple] = {}

    def parse(self, line: str) -> Row | None:
        """The row of a line without its line end, None for an empty one, or ListError."""
        name, tab, tail = line.partition("\t")
        if not tab or " " in name:
            if not line.strip(" \t\r"):
                return None
            name, tail = _split_at_blank(name, tab, tail)
        _check_name(name)
        parsed = self._tails.get(tail)
        if parsed is None:
            parsed = self._parse_tail(tail)
        return Row(name, *parsed)

    def _parse_tail(self, tail: str) -> tuple[tuple[int, ...], tuple[float, ...], int]:
        tags = self._tags
        pairs = [tags[text] for text in tail.split()]
        last = dict(pairs)
        parsed = tuple(last), tuple(last.values()), len(pairs) - len(last)
        if len(self._tails) < _CACHED_TAILS:
            self._tails[tail] = parsed
        return parsed


def _split_at_blank(name: str, tab: str, tail: str) -> tuple[str, str]:
    """Name and tags of a row whose text before the first tab (if any) may hold blanks.

    A name may hold blanks when a tab follows it; what looks like `class:confidence` behind a blank
    is a tag all the same, because lists mix blanks and tabs.
    """
    name = name.strip(" ")
    if not tab:
        name, _, tail = name.partition(" ")
        return name, tail
    words = name.split(" ")
    while len(words) > 1 and (not words[-1] or _TAG_WITH_CONFIDENCE.fullmatch(words[-1])):
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


def _byte_range(path: str | os.PathLike, part: tuple[int, int]) -> tuple[int, int]:
    index, count = part
    if not 0 <= index < count:
        raise ListError(f"part {index}/{count}: the part must be in 0..{count - 1}")
    size = Path(path).stat().st_size
    return size * index // count, size * (index + 1) // count


def _seek_line(file: BinaryIO, start: int) -> int:
    """Goes to the first line that begins at or after byte `start` and returns where that is."""
    if start == 0:
        bom = b"\xef\xbb\xbf"  # written by Windows editors
        return file.seek(3 if file.read(3) == bom else 0)
    file.seek(start - 1)
    file.readline()
    return file.tell()


def _whole_lines(file: BinaryIO, path: str | os.PathLike, start: int, stop: int) -> Iterator[bytes]:
    """Blocks of whole lines, each line with an end, up to the line that holds byte `stop - 1`."""
    rest, lines = b"", 0
    position = start
    while position < stop:
        block = file.read(min(_BLOCK_BYTES, stop - position))
        if not block:
            break
        position += len(block)
        whole, newline, last = (rest + block).rpartition(b"\n")
        yield whole + newline
        lines += whole.count(b"\n") + len(newline)
        rest = last
        if len(rest) > MAX_LINE_BYTES:
            break
    if rest:
        rest += file.readline(MAX_LINE_BYTES)
        if len(rest) > MAX_LINE_BYTES:
            where = _where(path, start, lines)
            raise ListError(f"{where}: longer than {MAX_LINE_BYTES} bytes; is this a list file?")
        yield rest if rest.endswith(b"\n") else rest + b"\n"


def _where(path: str | os.PathLike, start: int, lines: int) -> str:
    """`path:line` of the line that comes `lines` lines after byte `start`."""
    before = 0
    with open(path, "rb") as file:
        while start > 0 and (block := file.read(min(_BLOCK_BYTES, start))):
            before += block.count(b"\n")
            start -= len(block)
    return f"{os.fspath(path)}:{before + lines + 1}"
