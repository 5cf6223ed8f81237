"""Excerpts of a list: which rows, how many, and that any seed and number of processes repeat."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import subset
from data.lists import selection
from data.lists.blocks import parse_block
from data.lists.hierarchy import Hierarchy
from data.lists.selection import SOURCES, Rows, sources

PARENTS = [-1, -1, 0, 2, 0, 1, 3]
#  0          1
#  +- 2       +- 5
#  |  +- 3
#  |     +- 6
#  +- 4
HIERARCHY = Hierarchy(np.array(PARENTS, np.int32), tuple("abcdefg"), tuple("abcdefg"))
LIST = (
    "n00000001/n00000001_1.JPEG\t6:1\t3:1\t2:1\t0:1\n"
    "https://c4.staticflickr.com/8/7239/6997334729_e5fb3938b1_o.jpg\t4:0.9\t0:0.9\r\n"
    "\n"
    "7382017900_f7152f6e1c_o.jpg  5:0.6  1:1\n"
    "holiday.jpg\t3:0.5\t2:1\t5:-1\n"
    "none.jpg\n"
    "n00000001_2.JPEG\t2:1\t0:1\n"
)
NAMES = [line.split()[0] for line in LIST.splitlines() if line]


@pytest.fixture
def dictionary(tmp_path):
    path = tmp_path / "dictionary.txt"
    path.write_text("".join(f"{c}\tn{c}\t{p}\tname {c}\n" for c, p in enumerate(PARENTS)))
    return path


def run(tmp_path, *options, text=LIST):
    """The images taken, in order."""
    (tmp_path / "in.txt").write_text(text)
    (tmp_path / "out.txt").unlink(missing_ok=True)
    code = subset.main(
        [
            *("--list", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out.txt")),
            *("--processes", "1", *map(str, options)),
        ]
    )
    assert code == 0
    return [line.split()[0] for line in (tmp_path / "out.txt").read_text().splitlines()]


def test_without_a_condition_all_rows_are_taken(tmp_path, capsys):
    assert run(tmp_path) == NAMES
    assert "6 rows read, 0 lines refused, 6 rows fit, 6 taken" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        (["--classes", "3"], [0, 3]),
        (["--classes", "n3", "name 5"], [0, 2, 3]),
        (["--classes", "name 2"], [0, 3, 5]),
        (["--classes", "4", "--descendants"], [1]),
        (["--classes", "0", "--descendants"], [0, 1, 3, 5]),
        (["--classes", "3", "--above", "0.5"], [0]),
    ],
)
def test_rows_by_class(tmp_path, dictionary, options, taken):
    assert run(tmp_path, "--dictionary", dictionary, *options) == [NAMES[r] for r in taken]


def test_classes_from_a_file_and_without_a_dictionary(tmp_path):
    (tmp_path / "classes.txt").write_text("5\n\n 4 \n")
    assert run(tmp_path, "--classes_file", tmp_path / "classes.txt") == [NAMES[1], NAMES[2]]


@pytest.mark.parametrize(
    ("source", "taken"),
    [("ImageNet", [0, 5]), ("Open Images", [1, 2]), ("other", [3, 4])],
)
def test_rows_by_source(tmp_path, source, taken):
    assert run(tmp_path, "--source", source) == [NAMES[r] for r in taken]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("n04310904/n04310904_8388.JPEG", "ImageNet"),
        ("train/n04310904/n04310904_8388.JPEG", "ImageNet"),
        ("ILSVRC2012_val_00000001.JPEG", "ImageNet"),
        ("http://farm1.static.flickr.com/1/2_3.jpg", "Open Images"),
        ("https://open-images-dataset.s3.amazonaws.com/train/a.jpg", "other"),
        ("https://storage.googleapis.com/openimages/a.jpg", "other"),
        ("000a1249af2bc5f0", "Open Images"),
        ("im/000a1249af2bc5f0.jpg", "Open Images"),
        ("000a1249af2bc5f0.png", "other"),
        ("n1234567/x.jpg", "other"),
        ("0123_4.jpg", "other"),
    ],
)
def test_sources_by_name(name, source):
    assert SOURCES[sources(parse_block(f"{name}\t1:1\n".encode()))[0]] == source


def test_a_row_is_an_example_of_its_most_specific_classes():
    labels = parse_block(b"a\t0:1\t2:1\t6:1\t4:1\nb\t1:1\nc\nd\t3:1\t2:1\t5:1\n").labels
    specific = selection.most_specific(labels, HIERARCHY)
    assert specific.offsets.tolist() == [0, 2, 3, 3, 5]
    assert specific.classes.tolist() == [6, 4, 1, 3, 5]


def made_list(rows=600, seed=3):
    """Classes 3, 4, 5 and 6 with their ancestors, the frequency of each twice that of the next."""
    generator = np.random.default_rng(seed)
    lines = []
    for i in range(rows):
        classes = {int(generator.choice([3, 4, 5, 6], p=[8 / 15, 4 / 15, 2 / 15, 1 / 15]))}
        if i % 7 == 0:
            classes.add(4)
        for c in list(classes):
            classes.update(HIERARCHY.ancestors(c))
        lines.append(f"{i}.jpg" + "".join(f"\t{c}:1" for c in sorted(classes)) + "\n")
    return "".join(lines)


def specific_counts(tmp_path):
    labels = parse_block((tmp_path / "out.txt").read_bytes()).labels
    return Counter(selection.most_specific(labels, HIERARCHY).classes.tolist())


def test_at_most_k_images_of_each_specific_class(tmp_path, dictionary):
    taken = run(tmp_path, "--dictionary", dictionary, "--per_class", 30, text=made_list())
    assert max(specific_counts(tmp_path).values()) == 30
    assert set(specific_counts(tmp_path)) == {3, 4, 5, 6}
    again = run(tmp_path, "--dictionary", dictionary, "--per_class", 30, text=made_list())
    assert again == taken
    options = ("--dictionary", dictionary, "--per_class", 30, "--seed", 5)
    assert run(tmp_path, *options, text=made_list()) != taken
    assert taken == sorted(taken, key=lambda name: int(name[:-4]))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sets(st.integers(0, 5), max_size=3), max_size=40),
    st.integers(0, 5),
    st.integers(0, 99),
    st.sampled_from([1, 4, 100]),
)
def test_capping_is_greedy_in_a_random_order(classes, most, seed, order_rows):
    rows = rows_of(classes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "ORDER_ROWS", order_rows)
        taken = selection.at_most_per_class(rows, most, seed)
    used, expected = Counter(), []
    for n in np.random.default_rng(seed).permutation(len(classes)).tolist():
        if classes[n] and all(used[c] < most for c in classes[n]):
            used.update(classes[n])
            expected.append(n)
    assert taken.tolist() == sorted(expected)


def rows_of(classes):
    sizes = [len(c) for c in classes]
    flat = [c for own in classes for c in sorted(own)]
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
    return Rows(np.arange(len(classes), dtype=np.int32), offsets, np.array(flat, np.int32))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sets(st.integers(0, 5), max_size=3), max_size=60),
    st.integers(0, 80),
    st.integers(0, 99),
)
def test_stratified_fractions_differ_by_less_than_one_image(classes, count, seed):
    rows = rows_of(classes)
    taken = selection.stratified(rows, count, seed)
    assert len(set(taken.tolist())) == len(taken) == min(count, len(classes))
    frequency = Counter(c for own in classes for c in own)
    stratum = [min(own, key=lambda c: (frequency[c], c), default=None) for own in classes]
    chosen = Counter(stratum[n] for n in taken.tolist())
    for name, size in Counter(stratum).items():
        assert abs(chosen[name] - size * len(taken) / len(classes)) < 1


def test_so_many_at_random(tmp_path, dictionary):
    text = made_list()
    taken = run(tmp_path, "--count", 60, text=text)
    assert len(set(taken)) == 60
    assert run(tmp_path, "--count", 60, "--processes", 2, text=text) == taken
    assert run(tmp_path, "--count", 60, "--seed", 2, text=text) != taken
    assert len(run(tmp_path, "--fraction", 0.25, text=text)) == 150
    assert len(run(tmp_path, "--count", 10_000, text=text)) == 600
    run(tmp_path, "--dictionary", dictionary, "--count", 60, "--stratified", text=text)
    counts = specific_counts(tmp_path)
    assert counts[6] in (3, 4, 5) and counts[3] in range(24, 34)


def test_every_row_is_as_likely_as_another():
    rows = rows_of([{1}] * 10)
    hits = Counter(n for seed in range(400) for n in selection.at_random(rows, 3, seed).tolist())
    assert min(hits.values()) > 85 and max(hits.values()) < 155  # 120 expected


def test_conditions_apply_one_after_the_other(tmp_path, dictionary):
    options = ("--dictionary", dictionary, "--classes", 2, "--descendants")
    taken = run(tmp_path, *options, "--per_class", 40, "--count", 50, text=made_list())
    assert len(taken) == 50
    assert set(specific_counts(tmp_path)) <= {3, 4, 6}


def test_chunks_and_processes_change_nothing(tmp_path, dictionary, monkeypatch):
    text = "\n" + made_list(300).replace("7.jpg\t", "7.jpg  ").replace("9.jpg", "x\ty")
    options = ("--dictionary", dictionary, "--per_class", 20)
    expected = run(tmp_path, *options, text=text)
    monkeypatch.setattr("data.lists.rows.CHUNK_BYTES", 500)
    assert run(tmp_path, *options, text=text) == expected
    assert run(tmp_path, *options, "--processes", 3, text=text) == expected


def test_refused_lines_are_counted_and_shown(tmp_path, capsys):
    assert run(tmp_path, text="a\t1:1\nb\tx\n\nc\t1:9\nd\t1:1\n") == ["a", "d"]
    output = capsys.readouterr()
    assert "2 rows read, 2 lines refused" in output.out
    assert "in.txt:2: 'x' is not class:confidence" in output.err
    assert "in.txt:4: confidence '9'" in output.err


def test_an_empty_list_gives_an_empty_list(tmp_path, dictionary):
    for options in ([], ["--per_class", 3], ["--count", 3], ["--fraction", 0.5, "--stratified"]):
        assert run(tmp_path, "--dictionary", dictionary, *options, text="") == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--count", "3", "--fraction", "0.5"], "--count or --fraction, not both"),
        (["--stratified"], "--stratified needs"),
        (["--descendants", "--classes", "1"], "--descendants needs --dictionary"),
        (["--fraction", "1.5"], "--fraction must be in"),
        (["--per_class", "-1"], "must not be negative"),
    ],
)
def test_options_that_are_refused(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit):
        run(tmp_path, *options)
    assert message in capsys.readouterr().err


def test_unknown_classes_and_missing_files_are_one_line(tmp_path, dictionary, capsys):
    arguments = ["--list", str(tmp_path / "no.txt"), "--output", str(tmp_path / "out.txt")]
    assert subset.main(arguments) == 1
    assert "no.txt" in capsys.readouterr().err
    assert subset.main([*arguments, "--classes", "dog"]) == 1
    assert capsys.readouterr().err == "error: class 'dog' is not an index: --dictionary is needed\n"
    assert subset.main([*arguments, "--classes", "dog", "--dictionary", str(dictionary)]) == 1
    assert capsys.readouterr().err == "error: no class has the id or name 'dog'\n"
