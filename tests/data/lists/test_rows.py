"""List files: every row is parsed, or refused by file and line."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.common.sharding import Shard
from data.lists import rows as list_rows
from data.lists.rows import ListError, Row, format_row, parse_row, read_rows

URL = "https://c4.staticflickr.com/8/7239/6997334729_e5fb3938b1_o.jpg"


@pytest.mark.parametrize(
    ("line", "row"),
    [
        (f"{URL}\t3:1\t5193:0.9\n", Row(URL, (3, 5193), (1.0, 0.9))),
        (
            "n0/n0_1.JPEG  2367:1  2172:1 \t 1831:1\r\n",
            Row("n0/n0_1.JPEG", (2367, 2172, 1831), (1, 1, 1)),
        ),
        ("a.jpg 7", Row("a.jpg", (7,), (1.0,))),
        ("a.jpg\t7:-1\t8:-1.0", Row("a.jpg", (7, 8), (-1.0, -1.0))),
        ("a.jpg\t7:1e-3", Row("a.jpg", (7,), (0.001,))),
        ("a.jpg", Row("a.jpg", (), ())),
        ("my cat.jpg\t3:1", Row("my cat.jpg", (3,), (1.0,))),
        ("my cat.jpg\t", Row("my cat.jpg", (), ())),
        ("猫 の写真.jpg\t3:1", Row("猫 の写真.jpg", (3,), (1.0,))),
        # Blanks and tabs mixed in one row: a label does not become a part of the name.
        ("a.jpg  3:1 4:0.5\t5:1", Row("a.jpg", (3, 4, 5), (1.0, 0.5, 1.0))),
        ("  a.jpg 3:1", Row("a.jpg", (3,), (1.0,))),
    ],
)
def test_row(line: str, row: Row) -> None:
    assert parse_row(line) == row


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("\t3:1", "image name is missing"),
        ("my cat.jpg 3:1", "'cat.jpg' is not class:confidence"),
        ("a.jpg\t3:1.2", "confidence '1.2'"),
        ("a.jpg\t3:-0.5", "confidence '-0.5'"),
        ("a.jpg\t3:nan", "confidence 'nan'"),
        ("a.jpg\t3:", "confidence ''"),
        ("a.jpg\t3:1:1", "confidence '1:1'"),
        ("a.jpg\t-3:1", "'-3:1' is not class"),
        ("a.jpg\t1_0:1", "'1_0:1' is not class"),
        ("a.jpg\t٣:1", "is not class"),
        ("a.jpg\t" + "9" * 5000, "out of range"),
        ("a.jpg\t4294967296:1", "out of range"),
        ("a\x00.jpg\t3:1", "control character"),
        ("a.jpg\rb.jpg\t3:1", "control character"),
    ],
)
def test_refused(line: str, reason: str) -> None:
    with pytest.raises(ListError, match=rf"^list\.txt:4: .*{re.escape(reason)}"):
        parse_row(line, "list.txt:4")


def test_repeated_class_last_confidence_wins() -> None:
    # The released code wrote the labels of a row into a dense vector one after the other.
    assert parse_row("a.jpg 3:1 4:1 3:0.6 3:0.7") == Row("a.jpg", (3, 4), (0.7, 1.0), repeated=2)


def test_class_num_bounds() -> None:
    assert parse_row("a.jpg 9:1", class_num=10).classes == (9,)
    with pytest.raises(ListError, match=r"class 10 is not in 0\.\.9"):
        parse_row("a.jpg 10:1", class_num=10)


def test_file_with_everything(tmp_path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes("\ufeffa.jpg 1:1\r\n\r\n  \t\nü.jpg\t2:0.5\n\nlast.jpg 3".encode())
    assert [row.image for row in read_rows(path)] == ["a.jpg", "ü.jpg", "last.jpg"]
    assert list_rows.count_lines(path) == 6


def test_errors_name_the_line(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(list_rows, "CHUNK_BYTES", 16)  # so that the lines lie in different blocks
    path = tmp_path / "list.txt"
    good = b"".join(b"image%d.jpg\t1:1\n" % i for i in range(10))
    for bad, reason in [(b"a.jpg x\n", "class:conf"), (b"\xff.jpg 1\n", "UTF-8")]:
        path.write_bytes(good + b"\n" + bad + good)
        for part in [Shard(0, 1), Shard(1, 3)]:
            with pytest.raises(ListError, match=rf"list\.txt:12: .*{reason}"):
                list(read_rows(path, part=part))


def test_huge_lines(tmp_path) -> None:
    path = tmp_path / "list.txt"
    every_class = Row("a.jpg", tuple(range(11166)), (0.5,) * 11166)
    path.write_text(format_row(every_class) + "\nb.jpg 1\n")
    assert [row.image for row in read_rows(path)] == ["a.jpg", "b.jpg"]
    assert next(read_rows(path)) == every_class
    path.write_bytes(b"b.jpg 1\n" + bytes(list_rows.MAX_LINE_BYTES + list_rows.CHUNK_BYTES))
    with pytest.raises(ListError, match=r"list\.txt:2: over .* is this a list file"):
        next(read_rows(path))


def test_missing_file_and_bad_part(tmp_path) -> None:
    with pytest.raises(OSError, match=r"none\.txt"):
        next(read_rows(tmp_path / "none.txt"))
    path = tmp_path / "list.txt"
    path.write_text("a.jpg 1\n")
    with pytest.raises(ListError, match="3/3"):
        next(read_rows(path, part=Shard(3, 3)))


NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1).filter(
    lambda name: name.strip(" ") == name and not re.search(r" +[0-9]+:[-+.0-9eE]+$", name)
)
CONFIDENCES = st.one_of(st.just(-1.0), st.floats(0.0, 1.0))
ROWS = st.builds(
    lambda image, labels: Row(image, tuple(labels), tuple(labels.values())),
    NAMES,
    st.dictionaries(st.integers(0, 11165), CONFIDENCES, max_size=12),
)


@given(ROWS)
def test_format_and_parse_are_inverse(row: Row) -> None:
    assert parse_row(format_row(row)) == row


@pytest.mark.parametrize("image", ["", " a.jpg", "a\tb.jpg", "a\n.jpg", "cat 3:1"])
def test_unwritable_names_are_refused(image: str) -> None:
    with pytest.raises(ListError):
        format_row(Row(image, (1,), (1.0,)))


LINES = st.one_of(
    ROWS.map(format_row),
    st.text(st.sampled_from("ab猫 \t:\r,-.0123456789"), max_size=30),
    st.sampled_from(["", " ", "\t", "\r", "a.jpg 1:1\r", "a.jpg 1:2", "a.jpg  1:-1 \t 2", "\t1:1"]),
    st.just("a.jpg " + "1:1 " * 5000),
)


@pytest.mark.slow
@given(st.lists(LINES, max_size=12), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_every_line_is_parsed_or_refused(tmp_path_factory, lines, end, final_end) -> None:
    path = tmp_path_factory.mktemp("lists") / "list.txt"
    path.write_bytes((end.join(lines) + (end if final_end else "")).encode())
    rows, refused = [], None
    try:
        for row in read_rows(path):
            rows.append(row)
    except ListError as error:
        refused = int(re.search(r"list\.txt:(\d+): ", str(error))[1])
    read = lines if refused is None else lines[: refused - 1]
    assert len(rows) == sum(bool(line.strip(" \t\r")) for line in read)
    if refused is not None:
        with pytest.raises(ListError):
            parse_row(lines[refused - 1] + end)


@given(st.lists(st.sampled_from(["a.jpg 1", "", "long" * 9 + ".jpg\t2:1\r"]), max_size=9))
def test_parts_make_the_whole(tmp_path_factory, lines) -> None:
    path = tmp_path_factory.mktemp("lists") / "list.txt"
    path.write_bytes("\n".join(lines).encode())
    whole = list(read_rows(path))
    for count in (1, 2, 5):
        parts = [row for i in range(count) for row in read_rows(path, part=Shard(i, count))]
        assert parts == whole
