"""Splits by a number of training images a class; by fractions: tests/data/test_own_data.py."""

import pytest

from data.common.errors import UserError
from data.lists.split import Labeled, split_by_count


def labeled(**counts: int) -> list[Labeled]:
    return [Labeled(f"{c}/{i}.jpg", {c: 1.0}) for c, count in counts.items() for i in range(count)]


def images(rows: list[Labeled]) -> list[str]:
    return [row.image for row in rows]


def test_each_class_has_its_count_and_the_rest_is_the_test():
    every = labeled(cat=20, dog=5, yak=9)
    parts = split_by_count(every, 4, seed=1)
    assert parts.keys() == {"train", "test"}
    for name, rest in (("cat", 16), ("dog", 1), ("yak", 5)):
        own = {part: [r for r in rows if name in r.confidences] for part, rows in parts.items()}
        assert (len(own["train"]), len(own["test"])) == (4, rest)
    assert sorted(images(parts["train"]) + images(parts["test"])) == sorted(images(every))


def test_a_split_is_a_function_of_the_seed():
    every = labeled(cat=30, dog=30)
    first, again, other = (
        split_by_count(rows, 10, seed) for rows, seed in ((every, 1), (every[::-1], 1), (every, 2))
    )
    assert first == again
    assert images(first["train"]) != images(other["train"])
    # Not always the same names in all classes.
    numbers = [{i.split("/")[1] for i in images(first["train"]) if c in i} for c in ("cat", "dog")]
    assert numbers[0] != numbers[1]


def test_fewer_training_images_are_some_of_more():
    every = labeled(cat=30, dog=30)
    few, many = (set(images(split_by_count(every, n, 3)["train"])) for n in (5, 15))
    assert few < many


@pytest.mark.parametrize("count", [5, 6])
def test_a_class_needs_an_image_to_test(count):
    with pytest.raises(UserError, match=rf"class dog has 5 images: needs {count} to train on"):
        split_by_count(labeled(cat=20, dog=5), count, 1)
