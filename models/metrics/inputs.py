"""Checks the inputs of the evaluators and brings them into one form."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from data.common.errors import UserError
from models.losses import PADDING


class Labels(NamedTuple):
    """The labels of a batch, listed: (rows[i], classes[i]) has values[i]; no pair comes twice."""

    rows: np.ndarray
    classes: np.ndarray
    values: np.ndarray

    def where(self, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(rows, classes) of the labels that `mask` selects."""
        return self.rows[mask], self.classes[mask]


def select_rows(
    class_num: int,
    scores: np.ndarray,
    label_index: np.ndarray,
    label_value: np.ndarray,
    valid: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The valid rows: scores as a float32 copy, and the labels. Raises UserError."""
    scores, label_index, label_value = map(np.asarray, (scores, label_index, label_value))
    if scores.ndim != 2 or scores.shape[1] != class_num:
        raise UserError(f"scores must be [batch, {class_num}], not {list(scores.shape)}")
    if label_index.shape != label_value.shape or label_index.shape[:1] != scores.shape[:1]:
        raise UserError(
            f"labels {list(label_index.shape)} and {list(label_value.shape)} do not fit"
            f" scores {list(scores.shape)}"
        )
    keep = np.ones(len(scores), bool) if valid is None else np.asarray(valid, bool)
    scores = scores[keep].astype(np.float32, copy=False)
    if not np.isfinite(scores).all():
        raise UserError("scores hold NaN or infinity")
    return scores, label_index[keep], label_value[keep]


def list_labels(class_num: int, label_index: np.ndarray, label_value: np.ndarray) -> Labels:
    """The labels without padding, by row and class; of a pair listed twice the larger value."""
    rows, columns = np.nonzero(label_index != PADDING)
    classes, values = label_index[rows, columns].astype(np.int64), label_value[rows, columns]
    if len(classes) and not 0 <= classes.min() <= classes.max() < class_num:
        wrong = classes[(classes < 0) | (classes >= class_num)][0]
        raise UserError(f"a label is class {wrong}, but classes are 0 to {class_num - 1}")
    order = np.lexsort((values, classes, rows))
    rows, classes, values = rows[order], classes[order], values[order]
    last = np.append((rows[1:] != rows[:-1]) | (classes[1:] != classes[:-1]), True)[: len(rows)]
    return Labels(rows[last], classes[last], values[last])
