"""The table of the data set, files for people, and every check of a list."""

import csv
import sys

import numpy as np
import pytest
from PIL import Image

from data import label_statistics
from data.lists import statistics
from data.lists.blocks import parse_block
from data.lists.hierarchy import Hierarchy
from data.lists.statistics import CHECKS, count_list, name_hashes

PARENTS = [-1, -1, 0, 2, 0, 1, 3]
NAMES = ["thing", "matter", "body part", "hand", "animal", "water", "thumb"]
GOOD = (
    "n00000001/n00000001_1.JPEG\t6:1\t3:1\t2:1\t0:1\n"
    "https://c4.staticflickr.com/8/7239/6997334729_e5fb3938b1_o.jpg\t4:0.9\t0:0.9\n"
    "n00000001/n00000001_2.JPEG\t2:1\t0:1\t5:-1\t1:0\n"
)


@pytest.fixture
def dictionary(tmp_path):
    path = tmp_path / "dictionary.txt"
    lines = [f"{c}\tn{c}\t{p}\t{NAMES[c]}\n" for c, p in enumerate(PARENTS)]
    path.write_text("".join(lines))
    return path


def run(tmp_path, dictionary, train, *options, val=None):
    arguments = ["--dictionary", str(dictionary), "--processes", "1", *map(str, options)]
    for role, text in {"train": train, "val": val}.items():
        if text is not None:
            (tmp_path / f"{role}.txt").write_text(text)
            arguments += [f"--{role}", str(tmp_path / f"{role}.txt")]
    return label_statistics.main(arguments)


def facts(output):
    return dict(line.split("  ", 1) for line in output.splitlines() if "  " in line[1:])


def test_the_table_of_the_data_set(tmp_path, dictionary, capsys):
    code = run(tmp_path, dictionary, GOOD, "--min_images", 1, val="n1.jpg\t1:0.5\n")
    output = capsys.readouterr().out
    found = {fact: value.strip() for fact, value in facts(output).items()}
    assert code == 0
    assert found == {
        "train images": "3",
        "val images": "1",
        "ImageNet: train images": "2",
        "ImageNet: classes in train": "4",
        "ImageNet: val images": "0",
        "Open Images: train images": "1",
        "Open Images: classes in train": "2",
        "Open Images: val images": "0",
        "other: train images": "0",
        "other: classes in train": "0",
        "other: val images": "1",
        "classes": "7",
        "classes with a train image": "5",
        "trainable classes (over 1)": "2",  # 0 has three images, 2 has two
        "labels per train image (mean)": "2.67",  # 8 of 3 images
        "train images per class (mean)": "1",  # 8 of 7 classes
        "unknown labels (confidence -1)": "1",
        "denied labels (confidence 0)": "1",
        "trees of the hierarchy": "2 (thing, matter)",
        "longest path, edges": "3",
        "mean path, edges": "1.14",  # (0+0+1+2+1+1+3) / 7
    }
    assert output.count("nothing wrong") == 2


@pytest.mark.slow
def test_csv_files(tmp_path, dictionary):
    run(tmp_path, dictionary, GOOD, "--output", tmp_path / "out", val="x\t1:1\t5:1\n")
    with open(tmp_path / "out/images_per_class.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == NAMES
    assert [int(row["train images"]) for row in rows] == [3, 0, 2, 1, 1, 0, 1]
    assert [int(row["train images of ImageNet"]) for row in rows] == [2, 0, 2, 1, 0, 0, 1]
    assert [int(row["val images of other"]) for row in rows] == [0, 1, 0, 0, 0, 1, 0]
    assert [(row["id"], row["parent"], row["depth"]) for row in rows][3] == ("n3", "2", "2")
    assert (tmp_path / "out/tags_per_image.csv").read_text().splitlines() == [
        "tags,train images,val images",
        "0,0,0",
        "1,0,0",
        "2,2,1",
        "3,0,0",
        "4,1,0",
    ]


@pytest.mark.slow
def test_plots_are_images_with_something_on_them(tmp_path, dictionary):
    run(tmp_path, dictionary, GOOD, "--output", tmp_path / "out", val=GOOD)
    for name in ("images_per_class.png", "tags_per_image.png"):
        image = np.asarray(Image.open(tmp_path / "out" / name).convert("RGB"))
        assert min(image.shape[:2]) > 400
        assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20


def test_without_matplotlib_there_are_tables(tmp_path, dictionary, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run(tmp_path, dictionary, GOOD, "--output", tmp_path / "out") == 0
    assert capsys.readouterr().err == "plots need Matplotlib: pip install matplotlib\n"
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".csv"}


BAD = [
    ("format", "b\tx\n", "line 4: 'x' is not class:confidence"),
    ("confidence", "b\t0:1.5\n", "line 4: confidence '1.5' is neither in 0..1 nor -1"),
    ("class", "b\t7:1\n", "line 4: class 7 is not in 0..6"),
    ("repeated_class", "b\t0:1\t0:0.5\t0:1\n", "line 4: 2 repeated"),
    ("untagged", "b\t0:0\n", "line 4: b"),
    ("ancestor", "b\t3:1\t0:1\n", "line 4: b: class 3 without its parent 2"),
    ("parent_confidence", "b\t4:0.9\t0:0.8\n", "line 4: b: class 4 above its parent 0"),
    (
        "duplicate",
        "\nn00000001/n00000001_1.JPEG\t0:1\n",
        "line 5: n00000001/n00000001_1.JPEG: as line 1",
    ),
]


@pytest.mark.parametrize(("check", "line", "example"), BAD)
def test_each_check_counts_and_shows(tmp_path, dictionary, capsys, check, line, example):
    assert run(tmp_path, dictionary, GOOD + line) == 1
    output = capsys.readouterr().out
    count = 2 if check == "repeated_class" else 1
    assert f"  {check}: {count} {CHECKS[check]}\n" in output
    assert f"    {example}" in output
    assert sum(f"  {name}: " in output for name in CHECKS) == 1
    assert run(tmp_path, dictionary, GOOD + line, "--allow", check) == 0
    assert f"{check} (allowed)" in capsys.readouterr().out


def test_images_of_both_lists(tmp_path, dictionary, capsys):
    val = "a\t0:1\nn00000001/n00000001_2.JPEG\t0:1\nb\t1:1\n"
    assert run(tmp_path, dictionary, GOOD, val=val) == 1
    output = capsys.readouterr().out
    assert "  overlap: 1 rows of the second list" in output
    assert "    line 2: n00000001/n00000001_2.JPEG\n" in output
    assert "train.txt: nothing wrong" in output


def test_many_findings_over_many_chunks(tmp_path, dictionary, monkeypatch):
    lines = [f"{i % 100}.jpg\t0:1\t{i % 7}:0.5" for i in range(300)]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    hierarchy = Hierarchy.read(dictionary)
    whole = count_list(tmp_path / "list.txt", hierarchy, examples=3, processes=1)
    monkeypatch.setattr("data.lists.rows.CHUNK_BYTES", 200)
    parts = count_list(tmp_path / "list.txt", hierarchy, examples=3, processes=2)
    assert parts.findings == whole.findings
    assert whole.findings.counts["duplicate"] == 200
    assert whole.findings.examples["duplicate"] == [
        (100, "0.jpg: as line 1"),
        (101, "1.jpg: as line 2"),
        (102, "2.jpg: as line 3"),
    ]
    assert whole.findings.examples["ancestor"][0] == (3, "3.jpg: class 3 without its parent 2")
    np.testing.assert_array_equal(parts.class_images, whole.class_images)
    np.testing.assert_array_equal(parts.hashes, whole.hashes)
    assert parts.labels == sum(len({0, i % 7}) for i in range(300))


def test_duplicates_are_located_only_to_be_shown(tmp_path, dictionary, monkeypatch):
    lines = [f"{i}.jpg\t0:1\n" for i in range(300)]
    (tmp_path / "list.txt").write_text("".join(lines * 3))
    blocks = []
    read = statistics.read_block
    monkeypatch.setattr(statistics, "read_block", lambda *args: blocks.append(args) or read(*args))
    total = count_list(tmp_path / "list.txt", Hierarchy.read(dictionary), examples=2, processes=1)
    assert total.findings.counts["duplicate"] == 600
    assert total.findings.examples["duplicate"] == [
        (300, "0.jpg: as line 1"),
        (301, "1.jpg: as line 2"),
    ]
    assert len(blocks) == len(total.places) + 2 * 2


def test_examples_stop_at_the_limit(tmp_path, dictionary, capsys):
    run(tmp_path, dictionary, "".join(f"{i}\t6:1\n" for i in range(50)), "--examples", 2)
    output = capsys.readouterr().out
    assert "ancestor: 50 labels" in output
    assert output.count("without its parent") == 2


def test_hashes_tell_names_apart_and_repeat():
    names = [f"{a}{b}" for a in ("", "x", "xx", "y/", "n01/") for b in range(2000)]
    names += ["ab", "ba", "a" * 3000, "a" * 3001]
    text = "".join(f"{name}\t0:1\n" for name in names).encode()
    hashes = name_hashes(parse_block(text))
    assert len(np.unique(hashes)) == len(names)
    again = name_hashes(parse_block(b"".join(reversed(text.splitlines(keepends=True)))))
    np.testing.assert_array_equal(again[::-1], hashes)


def test_parents_are_found_in_any_order():
    block = parse_block(b"a\t6:1\t2:1\t3:1\t0:1\nb\t0:1\nc\nd\t6:0\t5:1\n")
    findings = statistics.check_block(block, np.array(PARENTS), most=9)
    assert findings.examples["ancestor"] == [(3, "d: class 5 without its parent 1")]
    assert findings.counts["parent_confidence"] == 0
    assert findings.counts["untagged"] == 1


def test_an_empty_list(tmp_path, dictionary, capsys):
    assert run(tmp_path, dictionary, "", "--output", tmp_path / "out") == 0
    assert "labels per train image (mean)        0.00" in capsys.readouterr().out


def test_files_that_are_not_there(tmp_path, dictionary, capsys):
    arguments = ["--train", str(tmp_path / "no.txt"), "--dictionary", str(dictionary)]
    assert label_statistics.main(arguments) == 2
    assert "no.txt" in capsys.readouterr().err
