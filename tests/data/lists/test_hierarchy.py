"""The dictionary with its hierarchy: what is read, what is refused, and walks up and down."""

from pathlib import Path

import numpy as np
import pytest

from data.common.errors import UserError
from data.lists.hierarchy import Hierarchy, read_ids, read_names

ROOT = Path(__file__).resolve().parents[3]
HEADER = "category_index\tcategory_id\tindex_of_parent_category\tcategory name\n"
#  0 thing          1 matter
#  +- 2 body part   +- 5 water
#  |  +- 3 hand
#  |     +- 6 thumb
#  +- 4 animal
LINES = (
    "0\tn1\t-1\tthing\n1\tn2\t-1\tmatter\n2\tn3\t0\tbody part\n3\tn4\t2\thand, manus\n"
    "4\tn5\t0\tanimal\n5\tn6\t1\twater\n6\tn7\t3\tthumb, manus\n"
)


def write(tmp_path, text, name="dictionary.txt"):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


@pytest.fixture
def hierarchy(tmp_path):
    return Hierarchy.read(write(tmp_path, HEADER + LINES))


def test_fields_of_the_file(hierarchy):
    assert len(hierarchy) == 7
    assert hierarchy.parents.dtype == np.int32
    assert hierarchy.parents.tolist() == [-1, -1, 0, 2, 0, 1, 3]
    assert hierarchy.ids[2] == "n3"
    assert hierarchy.names[3] == "hand, manus"
    assert hierarchy.roots == [0, 1]


@pytest.mark.parametrize(
    "text",
    [
        LINES,
        "\ufeff" + HEADER + LINES,
        (HEADER + LINES).replace("\n", "\r\n"),
        HEADER + "\n".join(reversed(LINES.splitlines())) + "\n\n",
    ],
    ids=["no header", "byte order mark", "Windows line ends", "any order, empty lines"],
)
def test_files_as_they_come(tmp_path, hierarchy, text):
    assert Hierarchy.read(write(tmp_path, text)).names == hierarchy.names


def test_up_and_down(hierarchy):
    assert hierarchy.ancestors(6) == [3, 2, 0]
    assert hierarchy.ancestors(0) == []
    assert hierarchy.depths.tolist() == [0, 0, 1, 2, 1, 1, 3]
    assert np.flatnonzero(hierarchy.descendants([2, 1])).tolist() == [1, 2, 3, 5, 6]
    assert hierarchy.on_one_path(6, 2)
    assert hierarchy.on_one_path(2, 6)
    assert hierarchy.on_one_path(4, 4)
    assert not hierarchy.on_one_path(4, 2)


def test_closure_is_each_class_with_its_ancestors(hierarchy):
    offsets, members = hierarchy.closure
    for c in range(len(hierarchy)):
        assert members[offsets[c] : offsets[c + 1]].tolist() == [c, *hierarchy.ancestors(c)]


@pytest.mark.parametrize(
    ("text", "found"),
    [("3", 3), ("n4", 3), ("hand", 3), ("Hand, manus", 3), (" Body part ", 2), ("thumb", 6)],
)
def test_a_class_is_found_by_what_people_write(hierarchy, text, found):
    assert hierarchy.find(text) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("7", r"class 7 is not in 0\.\.6"),
        ("foot", "no class has the id or name 'foot'"),
        ("manus", r"'manus' names 2 classes: 3 \(n4\), 6 \(n7\); give the index or id"),
    ],
)
def test_a_class_that_is_not_found(hierarchy, text, message):
    with pytest.raises(UserError, match=message):
        hierarchy.find(text)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("0\ta\t-1\tx\n0\tb\t-1\ty\n", r":3: class 0 is repeated \(line 2\)"),
        ("0\ta\t-1\tx\n1\ta\t-1\ty\n", r":3: id a is repeated \(line 2\)"),
        ("0\ta\t-1\tx\n2\tb\t-1\ty\n", r"indices 0\.\.2 for 2 classes; .* and 1 is missing"),
        ("0\ta\t-1\tx\n1\tb\t5\ty\n", ":3: class 1 has the unknown parent 5"),
        ("0\ta\t-2\tx\n", ":2: class 0 has the unknown parent -2"),
        ("0\ta\t0\tx\n", r":2: class 0 is its own ancestor \(0 -> 0\)"),
        ("0\ta\t1\tx\n1\tb\t2\ty\n2\tc\t1\tz\n", r"is its own ancestor \(2 -> 1 -> 2\)"),
        ("0\ta\t-1\n", ":2: 3 tab-separated fields, expected index, id, parent and name"),
        ("0\ta\tnone\tx\n", ":2: the parent 'none' is not an integer"),
        ("", "no class in it"),
    ],
)
def test_files_that_are_refused(tmp_path, lines, message):
    with pytest.raises(UserError, match=r"dictionary\.txt.*" + message):
        Hierarchy.read(write(tmp_path, HEADER + lines))


def test_names_of_the_imagenet_dictionary():
    names = read_names(ROOT / "data/imagenet2012_dictionary.txt")
    assert len(names) == 1000
    assert names[0] == "tench, Tinca tinca"
    assert names[1] == "goldfish, Carassius auratus"


def test_a_missing_dictionary_says_where_to_get_it(tmp_path):
    for read in (Hierarchy.read, Hierarchy.read_any, read_names):
        with pytest.raises(UserError, match=r"none\.txt: no such file; README\.md, Data, says"):
            read(tmp_path / "none.txt")


def test_ids_of_either_form(tmp_path, hierarchy):
    ids = read_ids(ROOT / "data/imagenet2012_dictionary.txt")
    assert ids[:2] == ["n01440764", "n01443537"]
    assert read_ids(write(tmp_path, HEADER + LINES)) == list(hierarchy.ids)
    with pytest.raises(UserError, match="class 1 has no id"):
        read_ids(write(tmp_path, "0\ta\tn1\n1\tb\n"))


def test_names_of_a_hierarchy_and_of_blanks(tmp_path, hierarchy):
    assert read_names(write(tmp_path, HEADER + LINES)) == list(hierarchy.names)
    assert read_names(write(tmp_path, "1 great white shark\n0\tone\tn1\n")) == [
        "one",
        "great white shark",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tench\n", "expected `index<TAB>name`, found 'tench'"),
        ("0 a\n0 b\n", ":2: class 0 is repeated"),
        ("0 a\n2 b\n", "1 is missing"),
        ("", "no class"),
    ],
)
def test_names_that_are_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_names(write(tmp_path, text))
