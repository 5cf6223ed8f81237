"""Counts, samples and co-occurring labels of data/lists/survey.py, against plain Python."""

import random
from collections import Counter

import numpy as np
import pytest

from data.lists.blocks import parse_block
from data.lists.hierarchy import Hierarchy
from data.lists.survey import Survey

# thing > animal > (dog, cat); plant alone
TREE = Hierarchy(np.array([-1, 0, 1, 1, -1], np.int32), tuple("abcde"), tuple("abcde"))
ROWS = b"""1.jpg\t2:1\t4:0.5
2.jpg\t2:0.9\t1:1
3.jpg\t3:0\t4:-1
4.jpg\t3:1\t4:1
5.jpg\t4:1\t2:0.1
"""


def surveyed(text, samples=9, pair_fraction=1.0, seed=0, parts=1):
    survey = Survey(TREE, samples, pair_fraction, seed)
    lines = text.splitlines(keepends=True)
    for part in np.array_split(np.arange(len(lines)), parts):
        survey.add(parse_block(b"".join(lines[i] for i in part)).labels)
    return survey


@pytest.mark.parametrize("parts", [1, 3])
def test_own_labels_and_those_below_are_counted_once_per_row(parts):
    survey = surveyed(ROWS, parts=parts)
    assert (survey.rows, survey.labels) == (5, 8)
    assert survey.own.tolist() == [0, 1, 3, 1, 3]
    assert survey.total.tolist() == [4, 4, 3, 1, 3]


def test_a_class_draws_from_its_own_rows_and_those_below():
    drawn = surveyed(ROWS, parts=2).drawn()
    assert [sorted(rows) for rows in drawn] == [[0, 1, 3, 4]] * 2 + [[0, 1, 4], [3], [0, 3, 4]]


def test_the_sample_hangs_on_the_seed_alone_and_is_fair():
    text = b"".join(b"%d.jpg\t%d:1\n" % (row, 2 + row % 2) for row in range(400))
    whole, parts = surveyed(text, samples=5), surveyed(text, samples=5, parts=7)
    assert whole.drawn() == parts.drawn()
    assert whole.drawn() != surveyed(text, samples=5, seed=1).drawn()
    drawn = Counter(row for seed in range(300) for row in surveyed(text, 5, seed=seed).drawn()[0])
    halves = [sum(drawn[row] for row in half) for half in (range(200), range(200, 400))]
    assert sum(halves) == 1500 and abs(halves[0] - halves[1]) < 160  # 4 standard deviations


def test_what_add_returns_are_the_rows_that_are_drawn_now():
    survey = Survey(TREE, 9, 1.0, 0)
    assert survey.add(parse_block(ROWS).labels).tolist() == [0, 1, 3, 4]


def test_co_occurring_labels_leave_out_the_path():
    found = surveyed(ROWS).co_occurring(2)
    assert found == [[], [], [(4, pytest.approx(2 / 3))], [(4, 1.0)],
                     [(2, pytest.approx(2 / 3)), (3, pytest.approx(1 / 3))]]  # fmt: skip
    assert surveyed(ROWS).co_occurring(1)[4] == [(2, pytest.approx(2 / 3))]


def test_pairs_of_a_sample_estimate_those_of_all():
    draw = random.Random(0)
    lines = (
        f"{row}.jpg\t2:1{chr(9) + '4:1' if draw.random() < 0.3 else ''}" for row in range(4000)
    )
    survey = surveyed("\n".join(lines).encode(), pair_fraction=0.25, parts=5)
    ((label, fraction),) = survey.co_occurring(3)[2]
    assert label == 4 and fraction == pytest.approx(0.3, abs=0.06)  # 4 standard deviations
