"""Co-occurrence of labels, counted from a model's predictions (spec section 1).

CO(i, j) is the fraction of the images annotated with class i for which the model predicts label j.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from data.common.errors import UserError
from data.common.files import atomic_write, read_text
from data.lists.blocks import Block, Labels
from data.lists.hierarchy import Hierarchy

_HEADING = re.compile(r"\+\+\+ the predictions of (.*) is:")
_PREDICTION = re.compile(r"\s*([0-9]+) .*: ([-+.0-9eE]+)")
_UNREADABLE = "unreadable: "
_TABLE_HEADER = "class\ttag\tco\timages with both\timages of class\n"


class Cooccurrence(NamedTuple):
    """Counts of the P pairs (class, label) that occur together.

    Attributes:
        classes: int32 [P].
        labels: int32 [P].
        both: int64 [P], number of images annotated with the class and predicted to have the label.
        images: int64 [P], number of images annotated with the class.
    """

    classes: np.ndarray
    labels: np.ndarray
    both: np.ndarray
    images: np.ndarray

    def pairs_above(self, threshold: float, hierarchy: Hierarchy) -> list[tuple[int, int]]:
        """Pairs (class, label) with CO > threshold that are not on one path of the hierarchy."""
        above = self.both > threshold * self.images
        candidates = zip(self.classes[above].tolist(), self.labels[above].tolist(), strict=True)
        return [(c, label) for c, label in candidates if not hierarchy.on_one_path(c, label)]

    def save(self, path: str | os.PathLike) -> None:
        """Writes the normalized matrix as a table, one pair per line."""
        columns = (self.classes, self.labels, self.both / self.images, self.both, self.images)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        lines = (f"{c}\t{j}\t{co:.6f}\t{both}\t{images}\n" for c, j, co, both, images in rows)
        atomic_write(path, _TABLE_HEADER + "".join(lines))

    @classmethod
    def read(cls, path: str | os.PathLike, class_num: int) -> Cooccurrence:
        """Reads a saved matrix.

        Raises:
            UserError: a malformed line or a class outside 0..class_num-1.
        """
        rows = []
        with io.StringIO(read_text(path)) as file:
            for number, line in enumerate(file, 1):
                if line == _TABLE_HEADER or not line.strip():
                    continue
                try:
                    c, label, _, both, images = line.split("\t")
                    row = int(c), int(label), int(both), int(images)
                except ValueError:
                    row = (-1,) * 4
                if not (max(row[:2]) < class_num and min(row) >= 0 and row[2] <= row[3]):
                    raise UserError(
                        f"{os.fspath(path)}:{number}: expected {_TABLE_HEADER.strip()!r}"
                        f" with classes below {class_num}, found {line[:60]!r}"
                    )
                rows.append(row)
        table = np.array(rows, np.int64).reshape(-1, 4)
        return cls(*table[:, :2].T.astype(np.int32), *table[:, 2:].T)


def read_predictions(path: str | os.PathLike) -> Iterator[tuple[str, list[tuple[int, float]]]]:
    """Yields (image, [(class, probability)]) from a text file written by `image_classification.py`.

    Images that were unreadable are left out.

    Raises:
        UserError: a malformed line, as `path:line: reason`.
    """
    image, found = None, []
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            heading = _HEADING.fullmatch(line.rstrip("\r\n"))
            prediction = not heading and _PREDICTION.fullmatch(line.strip())
            if heading:
                if image is not None:
                    yield image, found
                image, found = heading[1], []
            elif prediction and image is not None:
                found.append((int(prediction[1]), float(prediction[2])))
            elif line.startswith(_UNREADABLE):
                image = None
            elif line.strip():
                raise UserError(
                    f"{os.fspath(path)}:{number}: neither `+++ the predictions of ... is:` nor"
                    f" `INDEX NAME: PROB`: {line[:60]!r}"
                )
    if image is not None:
        yield image, found


class Counts:
    """Counts of keys, stored only for keys that occur.

    Attributes:
        keys: int64 [K], sorted.
        counts: int64 [K].
    """

    def __init__(self) -> None:
        self.keys = np.zeros(0, np.int64)
        self.counts = np.zeros(0, np.int64)

    def add(self, keys: np.ndarray) -> None:
        """Adds 1 to the count of each of `keys` (int64), which may repeat."""
        keys, counts = np.unique(keys, return_counts=True)
        merged, inverse = np.unique(np.concatenate([self.keys, keys]), return_inverse=True)
        total = np.zeros(len(merged), np.int64)
        np.add.at(total, inverse, np.concatenate([self.counts, counts]))
        self.keys, self.counts = merged, total


def count(
    annotated: Iterable[tuple[Block, Labels]],
    predictions_path: str | os.PathLike,
    mapping: np.ndarray,
    posterior: float,
    class_num: int,
) -> Cooccurrence:
    """Counts co-occurrence over the images of a list that have predictions.

    Predictions must be in the order of the list, but may lack some of its rows, so that neither has
    to fit in memory. Labels with a confidence above 0 count as annotations.

    Args:
        annotated: the list's rows and their current labels.
        predictions_path: a text file written by `image_classification.py`.
        mapping: int32, our class for each output of the model, -1 for none.
        posterior: a label counts as predicted if its probability is above this.
        class_num: number of our classes.

    Raises:
        UserError: a prediction is for an image that is not in the list, is out of order, or has an
            output beyond `mapping`.
    """
    images = np.zeros(class_num, np.int64)
    pairs = Counts()
    reader = _PredictionReader(predictions_path, mapping, posterior)
    for block, labels in annotated:
        rows, seen_rows, seen = reader.match(block)
        labels = labels.of_rows(rows)
        labels = labels.where(labels.confidences > 0)
        images += np.bincount(labels.classes, minlength=class_num)
        pairs.add(pair_keys(labels, seen_rows, seen, class_num))
    reader.finish()
    classes, seen_labels = np.divmod(pairs.keys, class_num)
    return Cooccurrence(
        classes.astype(np.int32), seen_labels.astype(np.int32), pairs.counts, images[classes]
    )


def pair_keys(labels: Labels, rows: np.ndarray, seen: np.ndarray, class_num: int) -> np.ndarray:
    """int64: a key `class * class_num + label` for each pair of an annotated and a predicted label.

    Args:
        labels: the annotations of the rows.
        rows: int64 [P], the row of each predicted label.
        seen: int64 [P], the class of each predicted label.
    """
    sizes = np.diff(labels.offsets)[rows]
    owner = np.repeat(np.arange(len(rows)), sizes)
    step = np.arange(len(owner)) - (np.cumsum(sizes) - sizes)[owner]
    classes = labels.classes[labels.offsets[rows][owner] + step]
    return classes * np.int64(class_num) + seen[owner]


class _PredictionReader:
    """Reads predictions in step with the rows of a list."""

    def __init__(self, path: str | os.PathLike, mapping: np.ndarray, posterior: float):
        self._predictions = read_predictions(path)
        self._path = os.fspath(path)
        self._mapping = mapping
        self._posterior = posterior
        self._next = next(self._predictions, None)

    def match(self, block: Block) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The next predictions, for the R rows of a block.

        Returns:
            bool [R], which rows have predictions; int64 [P], for each of the P predicted labels,
            the index of its row among these rows; and int64 [P], its class.
        """
        matched = np.zeros(len(block), bool)
        owners, seen = [], []
        count = 0
        for row, name in enumerate(block.names):
            if self._next is None:
                break
            path, predictions = self._next
            if not _is_image(path, name):
                continue
            classes = {self._class(index) for index, p in predictions if p > self._posterior}
            classes.discard(-1)
            seen.extend(sorted(classes))
            owners.extend([count] * len(classes))
            matched[row] = True
            count += 1
            self._next = next(self._predictions, None)
        return matched, np.array(owners, np.int64), np.array(seen, np.int64)

    def finish(self) -> None:
        """Raises UserError if predictions are left: images not in the list, or out of order."""
        if self._next is not None:
            raise UserError(
                f"{self._path}: {self._next[0]!r} is not in the list, or out of order;"
                " predict the images of this same list"
            )

    def _class(self, index: int) -> int:
        if index >= len(self._mapping):
            raise UserError(
                f"{self._path}: output {index}, but the model's dictionary has"
                f" {len(self._mapping)} classes: give --prediction_dictionary"
            )
        return int(self._mapping[index])


def _is_image(path: str, name: str) -> bool:
    """Whether the path is the list's image `name`, in any folder."""
    return path == name or path.endswith("/" + name)
