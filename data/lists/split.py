"""Splits labeled images into training, validation and test sets by a hash of their names."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import NamedTuple

from data.common.errors import UserError

SPLITS = ("train", "val", "test")


class Labeled(NamedTuple):
    """An image (path in the image folder) and the confidence of each of its classes, by name."""

    image: str
    confidences: dict[str, float]


def split(
    labeled: list[Labeled], val_fraction: float, test_fraction: float, seed: int
) -> dict[str, list[Labeled]]:
    """Splits images by a hash of their names, so that adding images does not move the others.

    Every class has an image in training: images with a class that training lacks are moved there.
    Validation and test each have an image, if training can spare one; validation comes first.

    Args:
        val_fraction, test_fraction: fractions of the images, approximate.
        seed: changes the hash.

    Returns:
        the images of each split, sorted by name.
    """
    parts: dict[str, list[Labeled]] = {name: [] for name in SPLITS}
    trained: Counter[str] = Counter()
    placed = sorted(
        ((_uniform(row.image, seed), row) for row in labeled),
        key=lambda pair: (pair[0], pair[1].image),
        reverse=True,
    )
    for position, row in placed:
        present = positives(row)
        known = present <= trained.keys()
        if position < test_fraction and known:
            name = "test"
        elif position < test_fraction + val_fraction and known:
            name = "val"
        else:
            name = "train"
            trained.update(present)
        parts[name].append(row)
    for name, fraction in (("val", val_fraction), ("test", test_fraction)):
        if fraction and not parts[name]:
            _fill(parts, name, trained)
    return {name: sorted(rows, key=lambda row: row.image) for name, rows in parts.items()}


def split_by_count(labeled: list[Labeled], count: int, seed: int) -> dict[str, list[Labeled]]:
    """Takes `count` training images per class, the first by a hash of their names; tests the rest.

    Args:
      labeled: images of one class each.

    Raises:
      UserError: a class does not have more images than `count`.
    """
    of_class: dict[str, list[Labeled]] = {}
    for row in labeled:
        (name,) = row.confidences
        of_class.setdefault(name, []).append(row)
    parts: dict[str, list[Labeled]] = {"train": [], "test": []}
    for name, rows in of_class.items():
        if len(rows) <= count:
            raise UserError(
                f"class {name} has {len(rows)} images: needs {count} to train on and at least one"
                " to test"
            )
        rows.sort(key=lambda row: (_uniform(row.image, seed), row.image))
        parts["train"] += rows[:count]
        parts["test"] += rows[count:]
    return {name: sorted(rows, key=lambda row: row.image) for name, rows in parts.items()}


def _fill(parts: dict[str, list[Labeled]], name: str, trained: Counter[str]) -> None:
    """Moves an image to the empty split `name`, from training or else from the other split."""
    other = parts["test" if name == "val" else "val"]
    spare = [row for row in parts["train"] if _is_spare(row, trained)]
    if spare:
        row = spare[-1]  # the one whose hash is closest to the held-out images
        parts["train"].remove(row)
        trained.subtract(positives(row))
        parts[name].append(row)
    elif len(other) > (name == "test"):
        parts[name].append(other.pop())


def _is_spare(row: Labeled, trained: Counter[str]) -> bool:
    """Whether training has other images of every class of this one."""
    present = positives(row)
    return bool(present) and all(trained[name] > 1 for name in present)


def positives(row: Labeled) -> set[str]:
    """The classes of an image with a confidence above 0."""
    return {name for name, value in row.confidences.items() if value > 0}


def _uniform(image: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}/{image}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
