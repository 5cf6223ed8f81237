"""Reads list files in blocks of rows as NumPy arrays, for lists of millions of rows.

The fast path takes lines of the plain form `image<TAB>class:confidence...` in ASCII. Any other line
goes through `lists.py`, which parses or refuses it, and is rewritten in the plain form: both
readers give the same rows and the same complaints.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from data.common.files import refuse_other_encodings
from data.lists.rows import MAX_LINE_BYTES, ListError, format_row, parse_row

CHUNK_BYTES = 1 << 20
"""Bytes of a list parsed at once; the arrays made of it stay below 0.1 GB."""

_NEWLINE, _TAB, _COLON = b"\n\t:"
_MARK, _ODD = 1, 2
_WORD_BYTES = 8
_ZEROS = np.uint64(0x3030303030303030)
_LARGEST_CLASS = 2**31 - 1


class Chunk(NamedTuple):
    """Whole lines of a file: `size` bytes from byte `offset`."""

    path: str
    offset: int
    size: int


class Tags(NamedTuple):
    """The tags of R rows: row r has those from `offsets[r]` to `offsets[r + 1]`.

    `offsets` int64 [R + 1], `classes` int32 [L], `confidences` float64 [L].
    """

    offsets: np.ndarray
    classes: np.ndarray
    confidences: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """int64 [L]: the row of each tag."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def where(self, chosen: np.ndarray) -> Tags:
        """The chosen tags (bool [L]) of the same rows."""
        before = np.concatenate([[0], np.cumsum(chosen)])
        return Tags(before[self.offsets], self.classes[chosen], self.confidences[chosen])

    def of_rows(self, chosen: np.ndarray) -> Tags:
        """The tags of the chosen rows (bool [R])."""
        counts = np.diff(self.offsets)
        kept = np.repeat(chosen, counts)
        offsets = np.concatenate([[0], np.cumsum(counts[chosen])])
        return Tags(offsets, self.classes[kept], self.confidences[kept])


@dataclass
class Block:
    """R rows.

    `data` uint8 holds the lines, each with its line end and nothing between them. Row r is
    `data[starts[r]:ends[r]]`, its image name stops at `name_ends[r]`, and `numbers[r]` counts the
    lines before it in the chunk. `lines` are the chunk's lines, empty ones included; `problems` are
    the refused ones: (lines before, reason). `repeated`: (lines before, how many tags) of the rows
    in which tags were overruled by a later one of the same class; those are not in `tags`.
    """

    data: np.ndarray
    starts: np.ndarray
    name_ends: np.ndarray
    ends: np.ndarray
    tags: Tags
    numbers: np.ndarray
    lines: int
    problems: list[tuple[int, str]] = field(default_factory=list)
    repeated: list[tuple[int, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.starts)

    def name(self, row: int) -> str:
        return self.data[self.starts[row] : self.name_ends[row]].tobytes().decode()

    def text(self, chosen: np.ndarray) -> bytes:
        """The lines of the chosen rows (bool [R])."""
        return self.data[np.repeat(chosen, self.ends + 1 - self.starts)].tobytes()


def chunks(path: str | os.PathLike, chunk_bytes: int | None = None) -> Iterator[Chunk]:
    """The file in chunks of whole lines, in order.

    Raises:
        UserError: it is UTF-16.
        ListError: a line is so long that this is no list file.
    """
    chunk_bytes = chunk_bytes or CHUNK_BYTES
    refuse_other_encodings(path)
    with open(path, "rb") as file:
        start = 3 if file.read(3) == b"\xef\xbb\xbf" else 0  # written by Windows editors
        end = file.seek(0, os.SEEK_END)
        while start < end:
            stop = file.seek(start + chunk_bytes - 1)
            stop = min(end, stop + len(file.readline(MAX_LINE_BYTES + 1)))
            if stop - start >= chunk_bytes + MAX_LINE_BYTES:
                raise ListError(f"{path}: a line of over {MAX_LINE_BYTES} bytes; is this a list?")
            yield Chunk(os.fspath(path), start, stop - start)
            start = stop


def read_block(chunk: Chunk, class_num: int | None = None) -> Block:
    """The rows of a chunk; lines that are refused are in `problems`."""
    with open(chunk.path, "rb") as file:
        file.seek(chunk.offset)
        return parse_block(file.read(chunk.size), class_num)


def parse_block(text: bytes, class_num: int | None = None) -> Block:
    """The rows of whole lines; lines that are refused are in `problems`."""
    text = text if text.endswith(b"\n") else text + b"\n"
    text = text.replace(b"\r\n", b"\n")
    block, odd = _scan(text, class_num, plain=False)
    if not odd.any():
        return block
    text, numbers, problems, repeated = _rewrite(block, odd, class_num)
    plain, _ = _scan(text, None, plain=True)
    plain.numbers, plain.problems, plain.repeated = numbers, problems, repeated
    plain.lines = block.lines
    return plain


def _scan(text: bytes, class_num: int | None, plain: bool) -> tuple[Block, np.ndarray]:
    """The rows of a text, and bool [R]: which of its lines are not of the plain form.

    Args:
        plain: the text is known to be of the plain form but for its names, which may hold blanks
            and letters beyond ASCII.
    """
    data = np.frombuffer(text, np.uint8)
    kinds = _BYTE_KINDS[data]
    at = np.flatnonzero(kinds == _MARK)
    marks = np.concatenate([data[at], np.frombuffer(b"\n\n", np.uint8)])
    ends = at[marks[:-2] == _NEWLINE]
    starts = np.concatenate([[0], ends + 1])[:-1]
    tabs = np.flatnonzero(marks == _TAB)
    row = np.cumsum(marks == _NEWLINE)[tabs]
    tab_counts = np.bincount(row, minlength=len(ends))
    name_ends = ends.copy()
    has_tab = tab_counts > 0
    name_ends[has_tab] = at[tabs[(np.cumsum(tab_counts) - tab_counts)[has_tab]]]

    closes_line = (marks[tabs + 1] == _NEWLINE) & (at[tabs + 1] == at[tabs] + 1)
    if closes_line.any():
        tabs, row = tabs[~closes_line], row[~closes_line]
    after = marks[tabs + 2]
    is_tag = (marks[tabs + 1] == _COLON) & ((after == _TAB) | (after == _NEWLINE))
    odd = name_ends == starts
    if not is_tag.all():
        odd[row[~is_tag]] = True
        tabs, row = tabs[is_tag], row[is_tag]
    colons, stops = at[tabs + 1], at[tabs + 2]
    classes, bad_class = _classes(data, at[tabs] + 1, colons)
    confidences, bad_value = _confidences(data, colons + 1, stops)
    if class_num is not None:
        bad_class |= classes >= class_num
    odd[row[bad_class | bad_value]] = True
    if not plain:
        odd[np.searchsorted(ends, np.flatnonzero(kinds == _ODD))] = True
        odd[_rows_with_repeats(row, classes)] = True
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(ends)))])
    tags = Tags(offsets, classes, confidences)
    return Block(data, starts, name_ends, ends, tags, np.arange(len(ends)), len(ends)), odd


def _words(data: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """uint64: the 8 bytes from each start on, the first one lowest; zeros outside the data."""
    edge = bytes(_WORD_BYTES)
    padded = edge + data.tobytes() + edge
    every = np.ndarray(len(data) + _WORD_BYTES + 1, "<u8", padded, strides=(1,))
    return every[starts + _WORD_BYTES]


def _classes(
    data: np.ndarray, starts: np.ndarray, stops: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """int32 values of decimal texts, and bool: which of them are no class index."""
    sizes = stops - starts
    # At least one byte is kept: of an empty text, the tab before it, which is no digit.
    surplus = np.clip(_WORD_BYTES - sizes, 0, _WORD_BYTES - 1).astype(np.uint64) * np.uint64(8)
    keep = np.uint64(2**64 - 1) << surplus
    words = _words(data, stops - _WORD_BYTES) & keep | _ZEROS & ~keep
    high = np.uint64(0xF0F0F0F0F0F0F0F0)
    bad = (words & high != _ZEROS) | (words + np.uint64(0x0606060606060606) & high != _ZEROS)
    # Eight digits to one number: neighbors, then pairs, then fours are combined in place.
    values = (words & np.uint64(0x0F0F0F0F0F0F0F0F)) * np.uint64(2561) >> np.uint64(8)
    values = (values & np.uint64(0x00FF00FF00FF00FF)) * np.uint64(6553601) >> np.uint64(16)
    values = (values & np.uint64(0x0000FFFF0000FFFF)) * np.uint64(42949672960001) >> np.uint64(32)
    for tag in np.flatnonzero(sizes > _WORD_BYTES):
        text = data[starts[tag] : stops[tag]].tobytes()
        bad[tag] = not text.isdigit() or int(text) > _LARGEST_CLASS
        values[tag] = 0 if bad[tag] else int(text)
    return values.astype(np.int32), bad


def _confidences(
    data: np.ndarray, starts: np.ndarray, stops: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """float64 values of confidence texts, and bool: which of them are refused."""
    sizes = stops - starts
    surplus = np.clip(_WORD_BYTES - sizes, 0, _WORD_BYTES - 1).astype(np.uint64) * np.uint64(8)
    words = _words(data, starts) & np.uint64(2**64 - 1) >> surplus
    words[sizes == 0] = 0
    different = np.unique(words)
    texts = [word.to_bytes(_WORD_BYTES, "little").rstrip(b"\0") for word in different.tolist()]
    values = np.array([_confidence(text) for text in texts])[np.searchsorted(different, words)]
    for tag in np.flatnonzero(sizes > _WORD_BYTES):
        values[tag] = _confidence(data[starts[tag] : stops[tag]].tobytes())
    return values, np.isnan(values)


@lru_cache(1 << 16)
def _confidence(text: bytes) -> float:
    """The confidence as `lists.py` reads it; NaN if it is refused."""
    try:
        return parse_row("x\t0:" + text.decode()).confidences[0]
    except ValueError:
        return np.nan


def _rows_with_repeats(row: np.ndarray, classes: np.ndarray) -> np.ndarray:
    keys = np.sort(row << 31 | classes)
    return keys[1:][keys[1:] == keys[:-1]] >> 31


def _rewrite(
    block: Block, odd: np.ndarray, class_num: int | None
) -> tuple[bytes, np.ndarray, list[tuple[int, str]], list[tuple[int, int]]]:
    """The block's text in the plain form, the line number of each row, problems, and repeats."""
    pieces, dropped, problems, repeated, copied = [], [], [], [], 0
    for line in np.flatnonzero(odd).tolist():
        pieces.append(block.data[copied : block.starts[line]].tobytes())
        copied = block.ends[line] + 1
        try:
            row = parse_row(
                block.data[block.starts[line] : block.ends[line]].tobytes().decode(), "", class_num
            )
        except UnicodeDecodeError:
            row = None
            problems.append((line, "not UTF-8; convert the list, e.g. by iconv"))
        except ListError as error:
            row = None
            problems.append((line, str(error).removeprefix(": ")))
        if row is None:
            dropped.append(line)
        else:
            pieces.append(format_row(row).encode() + b"\n")
            if row.repeated:
                repeated.append((line, row.repeated))
    pieces.append(block.data[copied:].tobytes())
    return b"".join(pieces), np.delete(block.numbers, dropped), problems, repeated


def _byte_kinds() -> np.ndarray:
    """uint8 [256]: _MARK for what separates, _ODD for what the plain form does not hold."""
    kinds = np.full(256, _ODD, np.uint8)
    kinds[0x21:0x7F] = 0
    kinds[[_NEWLINE, _TAB, _COLON]] = _MARK
    return kinds


_BYTE_KINDS = _byte_kinds()
