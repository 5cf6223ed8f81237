"""Names and hierarchy of classes: from dictionaries, and as a checkpoint keeps them."""

import json

import pytest

from data.common.errors import UserError
from data.common.files import sha256
from data.lists.classes import Classes

TREE = "index\tid\tparent\tname\n0\tn0\t-1\tthing\n1\tn1\t0\tanimal\n2\tn2\t1\tcat, tabby\n"


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "tree.txt").write_text(TREE)
    return tmp_path / "tree.txt"


def test_a_section_is_json_and_makes_the_same_classes(tree):
    read = Classes.read(tree)
    kept = Classes.from_section(json.loads(json.dumps(read.section())))
    assert list(kept.names) == ["thing", "animal", "cat, tabby"]
    assert kept.sha256 == read.sha256 == sha256(tree)
    assert kept.hierarchy.ancestors(2) == [1, 0]
    assert (kept.hierarchy.find("tabby"), kept.hierarchy.find("n1")) == (2, 1)


def test_a_dictionary_without_a_hierarchy_has_names_alone(tmp_path):
    (tmp_path / "names.txt").write_text("0\tcat\n1\tdog\n")
    section = Classes.read(tmp_path / "names.txt").section()
    assert section.keys() == {"names", "sha256"}
    assert Classes.from_section(section).hierarchy is None


def test_blanks_around_fields_make_no_other_dictionary(tree):
    tree.write_text(TREE.replace("\t-1\t", "\t -1 \t"))
    read = Classes.read(tree)
    assert list(read.names) == ["thing", "animal", "cat, tabby"] == list(read.hierarchy.names)


def test_a_malformed_hierarchy_is_not_taken_for_names(tree):
    tree.write_text(TREE.replace("n1\t0", "n1\tnone"))
    with pytest.raises(UserError, match=r"tree\.txt:3: the parent 'none' is not an integer"):
        Classes.read(tree)


def test_names_are_those_of_imagenet_for_a_thousand_classes_and_numbers_for_others():
    assert Classes.of_number(1000).names[2].split(",")[0] == "great white shark"
    assert Classes.of_number(3).names == ["class 0", "class 1", "class 2"]


@pytest.mark.parametrize(
    "parents", [[-1, 0], [-1, 0, 3], [-1, 2, 1]], ids=["few", "unknown", "cycle"]
)
def test_parents_that_make_no_hierarchy_are_refused(tree, parents):
    section = Classes.read(tree).section()
    section["hierarchy"]["parents"] = parents
    with pytest.raises(ValueError, match=r"parents|differ in number"):
        Classes.from_section(section)


def test_another_number_of_classes_names_both_numbers(tree):
    with pytest.raises(
        UserError, match=r"tree.txt names 3 classes, the network has 4 \(--class_num\): give"
    ):
        Classes.read(tree).check_number(4, tree)
