"""The scores and labels of a batch of images, checked once for all accumulators."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from data.common.errors import UserError
from models.losses import PADDING

LEFT_OUT = np.float32(-np.inf)
"""Replaces the score of an unknown label: below every real score."""


class LabeledScores(NamedTuple):
    """A batch: the label of image `rows[i]` for class `classes[i]` is `values[i]`.

    Attributes:
      scores: float32 [B, C], LEFT_OUT where the label is unknown.
      rows, classes, values: [N], sorted by row and class; each (row, class) occurs once.
    """

    scores: np.ndarray
    rows: np.ndarray
    classes: np.ndarray
    values: np.ndarray

    @property
    def unknown(self) -> tuple[np.ndarray, np.ndarray]:
        """(rows, classes) of the labels that are unknown."""
        mask = self.values < 0
        return self.rows[mask], self.classes[mask]

    def positive(self, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """(rows, classes) of the labels with at least this confidence."""
        mask = self.values >= threshold
        return self.rows[mask], self.classes[mask]

    def positive_mask(self, threshold: float) -> np.ndarray:
        """`positive` as a mask, bool [B, C]."""
        mask = np.zeros(self.scores.shape, bool)
        mask[self.positive(threshold)] = True
        return mask


def labeled(
    class_num: int, scores: np.ndarray, label_index: np.ndarray, label_value: np.ndarray
) -> LabeledScores:
    """Checks scores [B, C] and padded-sparse labels [B, K], without changing them.

    If an image lists a class twice, the larger value counts.

    Raises: UserError for wrong shapes, scores that are not finite, labels out of range.
    """
    scores, label_index, label_value = map(np.asarray, (scores, label_index, label_value))
    if scores.ndim != 2 or scores.shape[1] != class_num:
        raise UserError(f"scores must be [batch, {class_num}], not {list(scores.shape)}")
    if label_index.shape != label_value.shape or label_index.shape[:1] != scores.shape[:1]:
        raise UserError(
            f"labels {list(label_index.shape)} and {list(label_value.shape)} do not fit"
            f" scores {list(scores.shape)}"
        )
    scores = scores.astype(np.float32)
    if not np.isfinite(scores).all():
        raise UserError("scores hold NaN or infinity")
    rows, columns = np.nonzero(label_index != PADDING)
    classes, values = label_index[rows, columns].astype(np.int64), label_value[rows, columns]
    if len(classes) and not 0 <= classes.min() <= classes.max() < class_num:
        wrong = classes[(classes < 0) | (classes >= class_num)][0]
        raise UserError(f"a label is class {wrong}, but classes are 0 to {class_num - 1}")
    order = np.lexsort((values, classes, rows))
    rows, classes, values = rows[order], classes[order], values[order]
    last = np.append((rows[1:] != rows[:-1]) | (classes[1:] != classes[:-1]), True)[: len(rows)]
    found = LabeledScores(scores, rows[last], classes[last], values[last])
    scores[found.unknown] = LEFT_OUT
    return found
