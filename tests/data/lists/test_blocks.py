"""Blocks hold what single rows are parsed to: every row and every complaint."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.lists import blocks
from data.lists import rows as list_rows
from data.lists.blocks import Labels, format_rows
from data.lists.rows import ListError, Row, chunks, format_row, parse_row

NAME = st.text(st.sampled_from("ab/:.0ä→ \x85\u2028"), min_size=1, max_size=6) | st.sampled_from(
    ["http://a/b:80/c.jpg", "n01440764/n01440764_1.JPEG", "a 1:1 b"]
)
CLASS = st.sampled_from(["0", "7", "007", "12345", "99999999", "100000000", "2147483647", "9" * 11])
VALUE = st.sampled_from(
    ["1", "0.9", "-1", ".5", "1e-3", "0.12345678901", "1.0", "", "2", "nan", "x", "0.5.5", "-0.5"]
) | st.floats(0, 1).map(repr)
LABEL = (
    st.builds("{}:{}".format, CLASS, VALUE)
    | CLASS
    | st.sampled_from(["", ":", ":1", "a:1", "1:1:1"])
)
BLANK = st.sampled_from(["\t", "\t", "\t", " ", "  ", "\t\t", " \t"])
LINE = st.builds(
    lambda name, labels, end: name + "".join(blank + label for blank, label in labels) + end,
    NAME | st.just(""),
    st.lists(st.tuples(BLANK, LABEL), max_size=4),
    st.sampled_from(["\n", "\n", "\r\n", "\t\n", " \n"]),
)
PLAIN_LINE = st.builds(
    lambda name, labels: f"{name}\t" + "\t".join(f"{c}:{v}" for c, v in labels) + "\n",
    st.sampled_from(["a.jpg", "http://b:80/c.jpg"]),
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["1", "0.9", "-1"])), min_size=1),
)


def one_by_one(text, class_num=None):
    """Rows and problems, with the number of lines before each."""
    rows, problems = [], []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n")):
        try:
            row = parse_row(line, "", class_num)
        except ListError as error:
            problems.append((number, str(error).removeprefix(": ")))
        else:
            if row is not None:
                rows.append((number, row))
    return rows, problems


def rows_of(block):
    rows = []
    for r, number in enumerate(block.numbers.tolist()):
        own = slice(*block.labels.offsets[r : r + 2])
        classes, confidences = block.labels.classes[own], block.labels.confidences[own]
        rows.append((number, Row(block.names[r], tuple(classes), tuple(confidences))))
    return rows


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.lists(LINE | PLAIN_LINE, max_size=6), st.sampled_from([None, 13]))
def test_blocks_hold_the_rows_that_are_parsed_one_by_one(lines, class_num):
    text = "".join(lines)
    block = blocks.parse_block(text.encode(), class_num)
    rows, problems = one_by_one(text, class_num)
    assert rows_of(block) == [(number, row._replace(repeated=0)) for number, row in rows]
    assert block.problems == problems
    assert block.repeated == [(n, row.repeated) for n, row in rows if row.repeated]


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(st.lists(LINE | PLAIN_LINE, max_size=6), st.data())
def test_formatted_blocks_are_formatted_rows(lines, data):
    block = blocks.parse_block("".join(lines).encode())
    counts = data.draw(st.lists(st.integers(0, 3), min_size=len(block), max_size=len(block)))
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
    labels = st.tuples(st.integers(0, 2**31 - 1), st.sampled_from([1.0, 0.5, -1.0, 0.123456789]))
    labels = data.draw(st.lists(labels, min_size=sum(counts), max_size=sum(counts)))
    classes = np.array([c for c, _ in labels], np.int32)
    confidences = np.array([v for _, v in labels], float)
    expected = [
        format_row(Row(block.names[r], tuple(classes[a:b]), tuple(confidences[a:b])))
        for r, (a, b) in enumerate(pairwise(offsets))
    ]
    text = format_rows(block.names, Labels(offsets, classes, confidences))
    assert text.decode() == "".join(f"{line}\n" for line in expected)


@pytest.mark.parametrize(
    "line",
    [
        "a\t:1",
        "a\t1:",
        "a\t:",
        "a\t\t1:1",
        "a\t1:1:1",
        "\t1:1",
        "a\tb:1",
        "a\t1:1\t",
        "a\t12345678901:1",
    ],
)
def test_a_single_odd_line(line):
    block = blocks.parse_block(f"{line}\n".encode())
    rows, problems = one_by_one(line)
    assert (rows_of(block), block.problems) == (rows, problems)


def test_a_line_that_is_not_utf8_is_a_problem_of_that_line():
    block = blocks.parse_block(b"a\t1:1\n\xff\t1:1\nb\t2:1\n")
    assert block.names == ["a", "b"]
    assert block.numbers.tolist() == [0, 2]
    assert block.problems == [(1, "not UTF-8; convert the list, e.g. by iconv")]


def test_repeated_classes_keep_the_last_confidence():
    block = blocks.parse_block(b"a\t5:1\t3:0.5\t5:0.9\n")
    assert block.labels.classes.tolist() == [5, 3]
    assert block.labels.confidences.tolist() == [0.9, 0.5]
    assert block.repeated == [(0, 1)]


@pytest.mark.parametrize("chunk_bytes", [1, 7, 8, 20, 1000])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_chunks_are_whole_lines_that_make_up_the_file(tmp_path, monkeypatch, chunk_bytes, bom):
    monkeypatch.setattr(list_rows, "CHUNK_BYTES", chunk_bytes)
    lines = [b"a\t1:1\n", b"bb\t2:1\r\n", b"\n", b"a long name\t3:1\n", b"last\t4:1"]
    path = tmp_path / "list.txt"
    path.write_bytes(bom + b"".join(lines))
    pieces = list(chunks(path))
    names, before = [], 0
    for chunk in pieces:
        block = blocks.read_block(chunk)
        names += zip(block.names, (block.numbers + before).tolist(), strict=True)
        before += block.lines
    assert names == [("a", 0), ("bb", 1), ("a long name", 3), ("last", 4)]
    assert sum(chunk.size for chunk in pieces) + len(bom) == path.stat().st_size
    assert before == len(lines)


def test_an_empty_list_has_no_chunks(tmp_path):
    (tmp_path / "list.txt").touch()
    assert list(chunks(tmp_path / "list.txt")) == []


def test_a_file_without_line_ends_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(list_rows, "MAX_LINE_BYTES", 100)
    monkeypatch.setattr(list_rows, "CHUNK_BYTES", 10)
    (tmp_path / "list.txt").write_bytes(b"x" * 300)
    with pytest.raises(ListError, match="is this a list"):
        list(chunks(tmp_path / "list.txt"))


@pytest.mark.slow
def test_the_cache_of_labels_is_bounded(monkeypatch):
    """30,000 different labels are parsed right, in the memory of few."""
    monkeypatch.setattr(blocks, "CACHED_TEXTS", 10)
    held = []
    tracemalloc.start()
    try:
        for start in range(0, 30_000, 300):
            classes = list(range(start, start + 300))
            lines = "".join(f"{c}\t{c}:0.5\n" for c in classes) + "bad\tx\n"
            block = blocks.parse_block(lines.encode())
            assert block.labels.classes.tolist() == classes
            ((line, reason),) = block.problems
            assert line == 300 and "'x' is not class" in reason
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert held[-1] - held[1] < 1e6
