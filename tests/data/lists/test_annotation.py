"""Annotation rules: vocabulary, ancestors, co-occurrence; against a plain re-statement of each."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import annotations
from data.common.errors import UserError
from data.lists import cooccurrence
from data.lists.annotation import Expansion, expand, remap
from data.lists.blocks import parse_block
from data.lists.cooccurrence import Cooccurrence
from data.lists.hierarchy import Hierarchy
from data.lists.rows import read_rows

PARENTS = [-1, -1, 0, 2, 0, 1, 3]
#  0          1
#  +- 2       +- 5
#  |  +- 3
#  |     +- 6
#  +- 4
HIERARCHY = Hierarchy(np.array(PARENTS, np.int32), tuple("abcdefg"), tuple("abcdefg"))


@pytest.fixture
def dictionary(tmp_path):
    path = tmp_path / "dictionary.txt"
    lines = [f"{c}\tn{c}\t{parent}\tname {c}\n" for c, parent in enumerate(PARENTS)]
    path.write_text("header\tid\tparent\tname\n" + "".join(lines))
    return path


def run(tmp_path, dictionary, text, *options):
    """The rows that the script writes, as {image: {class: confidence}}, and its exit code."""
    (tmp_path / "in.txt").write_text(text)
    code = annotations.main(
        [
            *("--list", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out.txt")),
            *("--dictionary", str(dictionary), "--processes", "1", *map(str, options)),
        ]
    )
    rows = read_rows(tmp_path / "out.txt") if (tmp_path / "out.txt").exists() else []
    return {r.image: dict(zip(r.classes, r.confidences, strict=True)) for r in rows}, code


LABELS = st.dictionaries(st.integers(0, 6), st.sampled_from([1.0, 0.9, 0.6, 0.0, -1.0]))
PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=3)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.lists(LABELS, min_size=1, max_size=5), st.booleans(), PAIRS)
def test_implied_labels_are_what_the_rules_say(rows, ancestors, pairs):
    text = "".join(
        f"i{r}" + "".join(f"\t{c}:{v}" for c, v in row.items()) + "\n" for r, row in enumerate(rows)
    )
    implied = expand(parse_block(text.encode()).labels, Expansion.of(HIERARCHY, ancestors, pairs))
    for r, row in enumerate(rows):
        expected = by_the_rules(row, ancestors, pairs)
        own = slice(*implied.offsets[r : r + 2])
        assert implied.classes[own].tolist() == sorted(expected, reverse=True)
        found = zip(implied.classes[own].tolist(), implied.confidences[own].tolist(), strict=True)
        assert dict(found) == expected


def by_the_rules(row, ancestors, pairs):
    def up(c):
        return [c, *(HIERARCHY.ancestors(c) if ancestors else [])]

    result = dict(row)
    for c, value in row.items():
        if value == 0:
            continue
        for upper in up(c):
            result[upper] = max(result.get(upper, -1.0), value)
        if value > 0:
            for upper in up(c):
                for first, label in pairs:
                    for added in up(label) if first == upper else []:
                        result[added] = max(result.get(added, -1.0), value)
    return result


def test_a_parent_has_the_highest_confidence_of_its_children(tmp_path, dictionary):
    rows, code = run(tmp_path, dictionary, "a\t6:0.6\t4:0.9\nb\t3:1\t2:0.5\n", "--ancestors")
    assert code == 0
    assert rows == {"a": {6: 0.6, 3: 0.6, 2: 0.6, 4: 0.9, 0: 0.9}, "b": {3: 1, 2: 1, 0: 1}}
    assert (tmp_path / "out.txt").read_text().splitlines()[1] == "b\t3:1\t2:1\t0:1"


def test_unknown_masks_its_ancestors_and_zero_implies_nothing(tmp_path, dictionary):
    rows, _ = run(tmp_path, dictionary, "a\t3:-1\t5:0\nb\t3:-1\t4:0.8\n", "--ancestors")
    assert rows == {"a": {3: -1, 2: -1, 0: -1, 5: 0}, "b": {3: -1, 2: -1, 4: 0.8, 0: 0.8}}


def test_labels_outside_the_vocabulary_are_dropped_and_counted(tmp_path, dictionary, capsys):
    rows, code = run(tmp_path, dictionary, "a\t2:1\t7:1\t900:1\nb\t8:1\nc\t1\n")
    assert (rows, code) == ({"a": {2: 1}, "c": {1: 1}}, 0)
    report = capsys.readouterr().out
    assert "rows: 3 read, 2 written, 1 left out without a label, 0 lines refused" in report
    assert "labels: 5 read, 0 repeated in their row, 3 outside the vocabulary, 2 kept" in report
    kept, _ = run(tmp_path, dictionary, "b\t8:1\n", "--keep_untagged")
    assert kept == {"b": {}}


def test_indices_of_another_dictionary(tmp_path, dictionary):
    (tmp_path / "old.txt").write_text("0\tx\tn5\n1\ty\tn9\n2\tz\tq3\n3\tw\tn3\n")
    (tmp_path / "synonyms.txt").write_text("q3\tname 3\n")
    options = ["--from_dictionary", tmp_path / "old.txt", "--synonyms", tmp_path / "synonyms.txt"]
    rows, code = run(tmp_path, dictionary, "a\t0:0.5\t1:1\nb\t2:0.7\t3:0.9\nc\t77:1\n", *options)
    assert (rows, code) == ({"a": {5: 0.5}, "b": {3: 0.9}}, 0)


def test_ids_as_labels(tmp_path, dictionary, capsys):
    (tmp_path / "synonyms.txt").write_text("/m/0cgh4\tn4\n\n/m/x:y\t6\n")
    text = "a.jpg\tn2:0.5\t/m/0cgh4\tn77:1\r\nb.jpg /m/x:y:0.25\n\n"
    options = ["--tags", "id", "--synonyms", tmp_path / "synonyms.txt"]
    rows, code = run(tmp_path, dictionary, text, *options)
    assert (rows, code) == ({"a.jpg": {2: 0.5, 4: 1.0}, "b.jpg": {6: 0.25}}, 0)
    assert (
        "labels: 4 read, 0 repeated in their row, 1 outside the vocabulary"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("synonyms", "q3 name 3\n", r"synonyms:1: expected `id<TAB>class`, found 'q3 name 3"),
        ("synonyms", "q3\tname 9\n", "synonyms:1: no class has the id or name 'name 9'"),
        ("from_dictionary", "0\tx\tq1\n", "none of its ids, such as 'q1', is in the dictionary"),
        ("from_dictionary", "0\tx\n", r"class 0 has no id \(third field\)"),
    ],
)
def test_translations_that_are_refused(tmp_path, dictionary, capsys, name, text, message):
    (tmp_path / name).write_text(text)
    (tmp_path / "old.txt").write_text("0\tx\tn1\n")
    options = ["--from_dictionary", tmp_path / "old.txt", f"--{name}", tmp_path / name]
    _, code = run(tmp_path, dictionary, "a\t0:1\n", *options)
    assert code == 1
    with pytest.raises(UserError, match=message):
        raise UserError(capsys.readouterr().err)


def test_refused_lines_are_left_out_and_reported_by_number(tmp_path, dictionary, capsys):
    rows, code = run(tmp_path, dictionary, "a\t1:1\n\nb\t1:x\nc\t2:7\n d\t1:1\n")
    assert list(rows) == ["a", "d"]
    assert code == 0
    output = capsys.readouterr()
    assert "2 lines refused" in output.out
    assert "in.txt:3: confidence 'x' is neither" in output.err
    assert "in.txt:4: confidence '7' is neither" in output.err


def test_the_result_does_not_depend_on_processes_or_chunks(tmp_path, dictionary, monkeypatch):
    text = "".join(f"image {i}\t{i % 7}:0.{i % 9 + 1}\t{i % 5}\n" for i in range(500))
    outputs = []
    for processes, chunk_bytes in [(1, 1 << 20), (2, 1000), (3, 77)]:
        monkeypatch.setattr("data.lists.rows.CHUNK_BYTES", chunk_bytes)
        run(tmp_path, dictionary, text, "--ancestors", "--processes", processes)
        outputs.append((tmp_path / "out.txt").read_bytes())
    assert outputs[0] == outputs[1] == outputs[2]
    assert outputs[0].count(b"\n") == 500


def test_nothing_is_left_of_a_failed_run(tmp_path, dictionary, monkeypatch):
    monkeypatch.setattr("data.lists.annotation.expand", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, dictionary, "a\t1:1\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dictionary.txt", "in.txt"]


def test_remap_merges_and_drops():
    labels = remap(parse_block(b"a\t0:1\t1:0.5\nb\t2:1\n").labels, np.array([4, 4, -1], np.int32))
    assert labels.offsets.tolist() == [0, 2, 2]
    assert labels.classes.tolist() == [4, 4]
    merged = expand(labels, Expansion.of(HIERARCHY, ancestors=False))
    assert (merged.classes.tolist(), merged.confidences.tolist()) == ([4], [1.0])


# Co-occurrence: four images of class 3, of which the model sees 5 in three, and 4 in two.
LIST = "x/a\t3:1\nx/b\t3:1\nc\t6:0.5\nd\t3:1\t5:0\ne\t1:1\n"
PREDICTIONS = """\
+++ the predictions of images/x/a is:
1 five: 0.990
0 four: a "name": with: colons: 0.960
+++ the predictions of images/x/b is:
1 five: 0.960
2 outside: 1.000
+++ the predictions of images/c is:
1 five: 0.951
0 four: 0.950
3 two: 0.999
+++ the predictions of d is:
1 five: 0.940
0 four: 0.990
+++ the predictions of e is:
unreadable: the file is empty
"""


@pytest.fixture
def predictions(tmp_path):
    (tmp_path / "label_pred.txt").write_text(PREDICTIONS)
    (tmp_path / "outputs.txt").write_text("0\tfour\tn4\n1\tfive\tn5\n2\toutside\tq\n3\ttwo\tn2\n")
    return [
        *("--predictions", tmp_path / "label_pred.txt"),
        *("--prediction_dictionary", tmp_path / "outputs.txt"),
    ]


def test_cooccurrence_counted_and_added(tmp_path, dictionary, predictions):
    saved = tmp_path / "co.txt"
    rows, code = run(
        tmp_path, dictionary, LIST, *predictions, "--ancestors", "--save_co_matrix", saved
    )
    assert code == 0
    matrix = Cooccurrence.read(saved, 7)
    table = zip(*(x.tolist() for x in matrix), strict=True)
    assert {(c, label): (both, images) for c, label, both, images in table} == {
        (0, 2): (1, 4), (0, 4): (2, 4), (0, 5): (3, 4),
        (2, 2): (1, 4), (2, 4): (2, 4), (2, 5): (3, 4),
        (3, 2): (1, 4), (3, 4): (2, 4), (3, 5): (3, 4),
        (6, 2): (1, 1), (6, 5): (1, 1),
    }  # fmt: skip
    assert "3\t5\t0.750000\t3\t4\n" in saved.read_text()
    # 5 (and its ancestor 1) goes with 3 and 6; 4 with half of 3's images, which is not above 0.5;
    # 2 is an ancestor of 6; a label that the list denies (5:0 of d) is overruled as by any child.
    assert rows["c"] == {6: 0.5, 3: 0.5, 2: 0.5, 0: 0.5, 5: 0.5, 1: 0.5}
    assert rows["x/a"] == rows["d"] == {3: 1, 2: 1, 0: 1, 5: 1, 1: 1}
    assert rows["e"] == {1: 1}

    again, _ = run(tmp_path, dictionary, LIST, "--ancestors", "--co_matrix", saved)
    assert again == rows
    apart, _ = run(tmp_path, dictionary, LIST, "--co_matrix", saved)
    assert apart["c"] == {6: 0.5, 5: 0.5}
    fewer, _ = run(
        tmp_path, dictionary, LIST, "--ancestors", "--co_matrix", saved, "--co_threshold", 0.75
    )
    assert 5 not in fewer["x/a"] and 5 in fewer["c"]


def test_the_posterior_is_an_option(tmp_path, dictionary, predictions):
    saved = tmp_path / "co.txt"
    run(tmp_path, dictionary, LIST, *predictions, "--posterior", 0.9, "--save_co_matrix", saved)
    assert "3\t5\t1.000000\t3\t3\n" in saved.read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("+++ the predictions of zz is:\n", "'zz' is not in the list, or out of order"),
        ("+++ the predictions of yx/a is:\n", "'yx/a' is not in the list"),
        (
            "+++ the predictions of d is:\n+++ the predictions of x/a is:\n",
            "'x/a' is not in the list, or out of order",
        ),
        ("+++ the predictions of d is:\n9 nine: 0.99\n", "output 9, but the model's dictionary"),
        ("1 five: 0.9\n", r"label_pred\.txt:1: neither"),
        ("+++ the predictions of d is:\nwhatever\n", r"label_pred\.txt:2: neither"),
    ],
)
def test_predictions_that_are_refused(tmp_path, dictionary, predictions, capsys, text, message):
    (tmp_path / "label_pred.txt").write_text(text)
    _, code = run(tmp_path, dictionary, LIST, *predictions)
    assert code == 1
    with pytest.raises(UserError, match=message):
        raise UserError(capsys.readouterr().err)


@pytest.mark.parametrize("line", ["1\t2\t0.5\t1", "1\t7\t0.5\t1\t2", "1\t2\t0.5\t3\t2", "a"])
def test_matrices_that_are_refused(tmp_path, line):
    (tmp_path / "co.txt").write_text(f"{line}\n")
    with pytest.raises(UserError, match=r"co\.txt:1: expected 'class"):
        Cooccurrence.read(tmp_path / "co.txt", 7)


def test_counts_add_up_over_many_chunks(tmp_path):
    predicted = {"a": 3, "b": 1, "c": 3, "d": 2}
    path = tmp_path / "label_pred.txt"
    heading = "+++ the predictions of {} is:\n{} name: 0.99\n"
    path.write_text("".join(heading.format(image, c) for image, c in predicted.items()))
    chunks = (b"a\t0:1\nb\t0:1\n", b"not predicted\t0:1\n", b"c\t0:1\nd\t1:1\n")
    annotated = ((block, block.labels) for block in map(parse_block, chunks))
    found = cooccurrence.count(annotated, path, np.arange(4), posterior=0.9, class_num=4)
    rows = zip(*(column.tolist() for column in found), strict=True)
    assert sorted(rows) == [(0, 1, 1, 3), (0, 3, 2, 3), (1, 2, 1, 1)]


def test_options_that_exclude_each_other(tmp_path, dictionary):
    for options in (
        ["--predictions", "p", "--co_matrix", "m"],
        ["--save_co_matrix", "m"],
        ["--tags", "id", "--from_dictionary", "d"],
    ):
        with pytest.raises(SystemExit):
            run(tmp_path, dictionary, LIST, *options)
