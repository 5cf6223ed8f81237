"""data/digits.py: the demo data set is complete, annotated and honestly split."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from data import digits
from data.lists.hierarchy import Hierarchy
from data.lists.rows import read_rows

CLASS_NUM = 14


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    output = tmp_path_factory.mktemp("digits")
    assert digits.main(["--output", str(output)]) == 0
    return output


def rows_of(folder, part):
    return list(read_rows(folder / f"{part}_im_list.txt", CLASS_NUM))


def test_every_image_is_listed_once(folder):
    train, val = rows_of(folder, "train"), rows_of(folder, "val")
    assert (len(train), len(val)) == (1415, 382)
    listed = [row.image for row in train + val]
    assert sorted(listed) == sorted(f"images/{path.name}" for path in (folder / "images").iterdir())
    assert len(set(listed)) == 1797


def test_held_out_writers_come_last(folder):
    assert max(row.image for row in rows_of(folder, "train")) == "images/digit_1414.jpg"
    assert min(row.image for row in rows_of(folder, "val")) == "images/digit_1415.jpg"


def test_each_class_occurs_in_both_parts(folder):
    for part, least in (("train", 100), ("val", 30)):
        counts = Counter(c for row in rows_of(folder, part) for c in row.classes)
        assert set(counts) == set(range(CLASS_NUM))
        assert min(counts.values()) >= least


def test_annotations_hold_the_digit_and_its_ancestors(folder):
    hierarchy = Hierarchy.read(folder / digits.DICTIONARY)
    assert len(hierarchy) == CLASS_NUM
    rows = rows_of(folder, "train") + rows_of(folder, "val")
    for row, digit in zip(rows, load_digits().target, strict=True):
        leaf, *above = row.classes
        assert hierarchy.ids[leaf] == f"digit_{digit}"
        assert above == hierarchy.ancestors(leaf)
        assert set(row.confidences) == {1.0}


@pytest.mark.parametrize(
    ("digit", "above"),
    [
        ("zero", ["even digit with a closed loop", "even digit"]),
        ("two", ["even digit"]),
        ("seven", ["odd prime digit", "odd digit"]),
        ("nine", ["odd digit"]),
    ],
)
def test_hierarchy(folder, digit, above):
    hierarchy = Hierarchy.read(folder / digits.DICTIONARY)
    chain = hierarchy.ancestors(hierarchy.find(digit))
    assert [hierarchy.names[c] for c in chain] == above


def test_images_show_the_digits(folder):
    """Shrunk back, an image is the digit again, dark ink on light paper, in a margin of one."""
    for number in (0, 1414, 1796):
        with Image.open(folder / "images" / f"digit_{number:04d}.jpg") as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (40, 40))
            small = image.convert("L").resize((10, 10), Image.Resampling.BOX)
        ink = 16 * (1 - np.asarray(small)[1:-1, 1:-1] / 255)
        assert np.corrcoef(ink.ravel(), load_digits().images[number].ravel())[0, 1] > 0.97


@pytest.mark.slow
def test_a_second_run_writes_the_same(folder, tmp_path):
    digits.write_digits(tmp_path)
    for path in sorted(folder.rglob("*.*")):
        assert (tmp_path / path.relative_to(folder)).read_bytes() == path.read_bytes()
