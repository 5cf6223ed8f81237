"""data/imagenet2012_dictionary.txt: the 1,000 classes of ILSVRC2012 (spec section 6)."""

from pathlib import Path

import pytest

DICTIONARY = Path(__file__).resolve().parents[2] / "data" / "imagenet2012_dictionary.txt"


@pytest.fixture(scope="module")
def rows() -> list[list[str]]:
    return [line.split("\t") for line in DICTIONARY.read_text(encoding="utf-8").splitlines()]


def test_indices_count_from_zero_in_wnid_order(rows):
    assert [int(index) for index, _, _ in rows] == list(range(1000))
    wnids = [wnid for _, _, wnid in rows]
    assert wnids == sorted(set(wnids))
    assert all(wnid[0] == "n" and wnid[1:].isdigit() and len(wnid) == 9 for wnid in wnids)


def test_known_classes(rows):
    assert rows[0] == ["0", "tench, Tinca tinca", "n01440764"]
    assert rows[1][1].split(", ")[0] == "goldfish"
    assert rows[2][1].split(", ")[0] == "great white shark"
    assert rows[999] == ["999", "toilet tissue, toilet paper, bathroom tissue", "n15075141"]


def test_equal_names_are_told_apart_by_wnid(rows):
    assert [(index, wnid) for index, name, wnid in rows if name == "crane"] == [
        ("134", "n02012849"),  # the bird
        ("517", "n03126707"),  # the machine
    ]
