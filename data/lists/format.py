"""Formats blocks of rows with changed labels as lines of a list."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from data.lists.blocks import Block, Tags
from data.lists.rows import Row, format_row

_BLANK = ord(" ")
_TABLE_KEYS = 1 << 22


def format_rows(block: Block, tags: Tags, chosen: np.ndarray) -> bytes:
    """Lines with the names of a block's rows and other tags, as `lists.format_row` writes them.

    Args:
        block: R rows.
        tags: what the R rows shall have.
        chosen: bool [R], the rows to write.
    """
    if not chosen.any():
        return b""
    offsets, classes, confidences = tags.of_rows(chosen)
    texts, text_of_tag = _tag_texts(classes, confidences)
    text_stops = np.cumsum([len(text) for text in texts], dtype=np.int64)
    counts = np.diff(offsets)
    source = b"".join([b"\n", block.data.tobytes(), *texts])
    # A line is the line end before it with its name (one slice of `source`), then a text a tag.
    is_name = np.zeros(len(classes) + len(counts), bool)
    is_name[offsets[:-1] + np.arange(len(counts))] = True
    starts, stops = np.empty((2, len(is_name)), np.int64)
    starts[is_name] = block.starts[chosen]
    stops[is_name] = (block.name_ends + 1 + _needs_tab(block, tags))[chosen]
    text_starts = np.concatenate([[0], text_stops[:-1]])
    starts[~is_name] = (text_starts + len(block.data) + 1)[text_of_tag]
    stops[~is_name] = (text_stops + len(block.data) + 1)[text_of_tag]
    return _join(np.frombuffer(source, np.uint8), starts, stops)[1:].tobytes() + b"\n"


def _tag_texts(classes: np.ndarray, confidences: np.ndarray) -> tuple[list[bytes], np.ndarray]:
    """The different texts of tags, and the index of each tag's text."""
    values = np.unique(confidences)
    keys = classes * np.int64(len(values)) + np.searchsorted(values, confidences)
    different, text_of_tag = _unique(keys)
    owners, which = np.divmod(different, max(1, len(values)))
    texts = list(map(_tag_text, owners.tolist(), values[which].tolist()))
    return texts, text_of_tag


def _unique(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As np.unique with return_inverse, without sorting where the keys span a small range."""
    span = int(keys.max(initial=-1)) + 1
    if span > _TABLE_KEYS:
        return np.unique(keys, return_inverse=True)
    occurs = np.zeros(span, bool)
    occurs[keys] = True
    return np.flatnonzero(occurs), (np.cumsum(occurs) - 1)[keys]


@lru_cache(1 << 17)
def _tag_text(class_index: int, confidence: float) -> bytes:
    return format_row(Row("x", (class_index,), (confidence,)))[1:].encode()


def _needs_tab(block: Block, tags: Tags) -> np.ndarray:
    """bool [R]: a name that holds a blank keeps the tab behind it although no tag follows."""
    needs = (np.diff(tags.offsets) == 0) & (block.name_ends < block.ends)
    for row in np.flatnonzero(needs):
        needs[row] = _BLANK in block.data[block.starts[row] : block.name_ends[row]]
    return needs


def _join(source: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """The slices source[starts:stops], one behind the other."""
    sizes = stops - starts
    where = np.repeat(stops - np.cumsum(sizes), sizes)
    where += np.arange(len(where))
    return source[where]
