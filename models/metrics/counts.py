"""The rankings and counts that metrics are computed from, and the NumPy functions that make them.

Labels are positive, negative or unknown. An unknown label is left out: its score is set to
`LEFT_OUT`, which is below every real score, so that no count of "scores at least s" contains it.
Ties never help: a tied negative counts as ranked above the positive where scikit-learn does so,
and elsewhere the class with the lower index ranks first.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from data.common.errors import UserError
from models.metrics.labeled import LEFT_OUT
from models.metrics.reliability import Reliability

Z_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


class UndefinedError(UserError):
    """There is no image or no positive label to measure."""


class RankedPositives(NamedTuple):
    """The positive labels of a group of rankings (one per image, or one per class).

    Sorted by `group`, then from the highest score down. All arrays have one entry per positive.
    """

    group: np.ndarray  # int: which ranking, e.g. the row of the image
    member: np.ndarray  # int: what is ranked, e.g. the class
    score: np.ndarray  # float32
    at_least: np.ndarray  # int64: known entries of the ranking with a score >= this one's
    true: np.ndarray  # int64: positives among them


def ratio(numerator: np.ndarray, denominator: np.ndarray, empty: float = 0.0) -> np.ndarray:
    """`numerator / denominator` in float64, and `empty` where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(
        np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    )
    out = np.full(numerator.shape, empty)
    return np.divide(numerator, denominator, out=out, where=denominator != 0)


def positives_at_least(group: np.ndarray, score: np.ndarray) -> np.ndarray:
    """int64: for each positive, the positives of its group with a score >= its own.

    `group` ascends, and within a group `score` descends.
    """
    count = len(group)
    if not count:
        return np.zeros(0, np.int64)
    ends = (group[1:] != group[:-1]) | (score[1:] != score[:-1])
    ends = np.append(np.flatnonzero(ends) + 1, count)
    tie_end = np.repeat(ends, np.diff(ends, prepend=0))
    return tie_end - np.searchsorted(group, group, side="left")


# ---- One ranking per class: average precision ---------------------------------------------------


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """AP of one class: the sum over thresholds of `(R_n - R_(n-1)) P_n`; NaN without a positive.

    Args:
      scores: float32 [N].
      labels: [N], above 0 positive, 0 negative, below 0 unknown.
    """
    scores, labels = np.asarray(scores, np.float32), np.asarray(labels)
    known = np.sort(scores[labels >= 0])
    positives = np.sort(scores[labels > 0])[::-1]
    group = np.zeros(len(positives), np.intp)
    at_least = len(known) - np.searchsorted(known, positives, side="left")
    ranked = RankedPositives(
        group, group, positives, at_least, positives_at_least(group, positives)
    )
    return float(average_precisions(ranked, 1)[0])


def average_precisions(ranked: RankedPositives, class_num: int) -> np.ndarray:
    """float64 [C]: AP of each class, grouped by class; NaN for a class without a positive.

    The sum over thresholds equals the mean over positives of the precision at their scores.
    """
    precision = ranked.true / ranked.at_least
    total = np.bincount(ranked.group, weights=precision, minlength=class_num)
    return ratio(total, np.bincount(ranked.group, minlength=class_num), empty=np.nan)


def best_thresholds(ranked: RankedPositives, class_num: int, default: np.ndarray) -> np.ndarray:
    """float32 [C]: the score threshold with the best F1 for each class, the highest among ties.

    Only scores of positives can be best. A class without a positive gets its `default` [C].
    """
    positives = np.bincount(ranked.group, minlength=class_num)
    f1 = 2.0 * ranked.true / (ranked.at_least + positives[ranked.group])
    order = np.lexsort((-ranked.score, -f1, ranked.group))
    classes, first = np.unique(ranked.group[order], return_index=True)
    thresholds = np.array(default, np.float32)
    thresholds[classes] = ranked.score[order][first]
    return thresholds


# ---- One ranking per image ----------------------------------------------------------------------


def rank_in_images(
    scores: np.ndarray, rows: np.ndarray, classes: np.ndarray
) -> tuple[RankedPositives, np.ndarray]:
    """Ranks of the positives (rows[i], classes[i]) of a batch among the classes of their image.

    Args:
      scores: float32 [B, C], unknown entries `LEFT_OUT`.
      rows, classes: int [N], any order.
    Returns: the ranked positives, and `before` int64 [N]: the number of classes ranked before each
      of them, including tied classes with a lower index.
    """
    order = np.lexsort((-scores[rows, classes], rows))
    rows, classes = rows[order], classes[order]
    own = scores[rows, classes]
    ascending = np.sort(scores, axis=1)
    at_least = np.empty(len(rows), np.int64)
    before = np.empty(len(rows), np.int64)
    bounds = np.searchsorted(rows, np.arange(len(scores) + 1))
    for row in np.unique(rows):
        part = slice(bounds[row], bounds[row + 1])
        at_least[part] = scores.shape[1] - np.searchsorted(ascending[row], own[part], "left")
        before[part] = scores.shape[1] - np.searchsorted(ascending[row], own[part], "right")
    for i in np.flatnonzero(at_least - before > 1):
        before[i] += np.count_nonzero(scores[rows[i], : classes[i]] == own[i])
    true = positives_at_least(rows, own)
    return RankedPositives(rows, classes, own, at_least, true), before


def top_classes(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k best known classes of each row, best first; fewer if fewer are known.

    Returns: (rows, classes, places), each int [N], rows ascending and places from 0. Among tied
      classes, the lower index comes first.
    """
    k = min(k, scores.shape[1])
    bound = np.partition(scores, -k, axis=1)[:, -k, None]
    rows, classes = np.nonzero((scores >= bound) & (scores != LEFT_OUT))
    order = np.lexsort((classes, -scores[rows, classes], rows))
    rows, classes = rows[order], classes[order]
    places = np.arange(len(rows)) - np.searchsorted(rows, rows, side="left")
    best = places < k
    return rows[best], classes[best], places[best]


# ---- Hierarchy ----------------------------------------------------------------------------------


def ancestor_table(parents: np.ndarray) -> np.ndarray:
    """int64 [C, D]: each class followed by its ancestors, padded with -1.

    Args:
      parents: int [C], the parent of each class, -1 for a root.
    Raises: UserError for a parent out of range, or a loop.
    """
    parents = np.asarray(parents, np.int64)
    if len(parents) and (parents.min() < -1 or parents.max() >= len(parents)):
        raise UserError(f"parents must be -1 or a class below {len(parents)}")
    columns = [np.arange(len(parents))]
    while (columns[-1] >= 0).any():
        if len(columns) > len(parents):
            raise UserError("the hierarchy has a loop: a class is its own ancestor")
        columns.append(np.where(columns[-1] >= 0, parents[columns[-1]], -1))
    return np.stack(columns[:-1] or columns, axis=1)


def hierarchical_counts(
    predicted: tuple[np.ndarray, np.ndarray],
    positive: tuple[np.ndarray, np.ndarray],
    unknown: tuple[np.ndarray, np.ndarray],
    ancestors: np.ndarray,
) -> np.ndarray:
    """int64 [3]: sizes of the common, predicted and positive sets, with ancestors added.

    Each set is (rows, classes); the ancestors of its classes are added and unknown labels removed.
    Precision is common / predicted, recall common / positive (Silla and Freitas 2011, 2.2.4).
    """
    left_out = unknown[0] * len(ancestors) + unknown[1]

    def closed(rows: np.ndarray, classes: np.ndarray) -> np.ndarray:
        table = ancestors[classes]
        keys = np.unique((rows[:, None] * len(ancestors) + table)[table >= 0])
        return np.setdiff1d(keys, left_out, assume_unique=True) if len(left_out) else keys

    predictions, positives = closed(*predicted), closed(*positive)
    common = np.intersect1d(predictions, positives, assume_unique=True)
    return np.array([len(common), len(predictions), len(positives)], np.int64)


# ---- Fractions ----------------------------------------------------------------------------------


def wilson_interval(successes: int, total: int, z: float = Z_95) -> tuple[float, float]:
    """Confidence interval of a fraction (Wilson, JASA 1927); (0, 1) if `total` is 0."""
    if total == 0:
        return 0.0, 1.0
    fraction = successes / total
    scale = 1.0 + z * z / total
    center = (fraction + z * z / (2 * total)) / scale
    spread = z / scale * math.sqrt(fraction * (1 - fraction) / total + (z / (2 * total)) ** 2)
    return max(center - spread, 0.0), min(center + spread, 1.0)


# ---- What the evaluators count ------------------------------------------------------------------


class ClassCounts(NamedTuple):
    """int64 [C] each, over the images where the class is known."""

    known: np.ndarray
    positives: np.ndarray
    predicted: np.ndarray
    true: np.ndarray  # predicted and positive

    @classmethod
    def zeros(cls, class_num: int) -> ClassCounts:
        """Counts before any image is added."""
        return cls(*np.zeros((len(cls._fields), class_num), np.int64))


@dataclass(frozen=True)
class ImageRankings:
    """A batch of images, each with its ranking of the classes and its predictions.

    Attributes:
      ranked, before: from `rank_in_images`.
      known: int [B], known classes of each image.
      predicted: int [B], classes predicted at the threshold.
      true: int [B], positives among them.
    """

    ranked: RankedPositives
    before: np.ndarray
    known: np.ndarray
    predicted: np.ndarray
    true: np.ndarray

    @functools.cached_property
    def positives(self) -> np.ndarray:
        """int [B]: positive labels of each image."""
        return np.bincount(self.ranked.group, minlength=len(self.known))

    def total(self, values: np.ndarray) -> np.ndarray:
        """float64 [B]: the sum of `values`, one per positive, over each image's positives."""
        return np.bincount(self.ranked.group, weights=values, minlength=len(self.known))

    def true_at(self, k: int) -> np.ndarray:
        """float64 [B]: positives among the k best classes of each image."""
        return self.total(self.before < k)


@dataclass(frozen=True)
class MultiLabelCounts:
    """The counts of a multi-label evaluation.

    Attributes:
      top: the values of k for metrics at k.
      thresholds: float32 [C], scores from which classes are predicted.
      sums: for each metric that is a mean over images, by name, the sum over the images.
      ranked: the positives of every class, ranked among the images where it is known.
      micro: the positives of all supported classes, ranked among all their known entries.
      reliability: of all known entries of supported classes.
      closures: k -> sizes of the common, predicted and positive sets with ancestors added; empty
        without a hierarchy.
    """

    top: tuple[int, ...]
    thresholds: np.ndarray
    images: int
    images_with_positive: int
    counts: ClassCounts
    supported: np.ndarray
    sums: dict[str, float]
    ranked: RankedPositives
    micro: RankedPositives
    reliability: Reliability
    closures: dict[int, np.ndarray]

    @functools.cached_property
    def average_precisions(self) -> np.ndarray:
        """float64 [C]: AP of each class, NaN for one without a positive."""
        return average_precisions(self.ranked, len(self.supported))

    def totals(self) -> ClassCounts:
        """The counts added up over the supported classes, an integer each."""
        return ClassCounts(*(count[self.supported].sum() for count in self.counts))

    def mean(self, column: str) -> float:
        """Mean over the supported classes of a column of `class_table`."""
        return float(self.class_table[column][self.supported].mean())

    def fitted_thresholds(self) -> np.ndarray:
        """float32 [C]: each class's score threshold with the best F1, to use on other data."""
        return best_thresholds(self.ranked, len(self.supported), self.thresholds)

    def curve(self, class_index: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(recall, precision), [P] each, at each positive's score, of a class or micro over all."""
        ranked = self.micro
        if class_index is not None:
            bounds = np.searchsorted(self.ranked.group, [class_index, class_index + 1])
            ranked = RankedPositives(*(array[slice(*bounds)] for array in self.ranked))
        return ranked.true / max(len(ranked.true), 1), ranked.true / ranked.at_least

    @functools.cached_property
    def class_table(self) -> dict[str, np.ndarray]:
        """Per class, [C] each: AP, precision, recall and F1 at the threshold, and counts."""
        counts = self.counts
        return {
            "average_precision": self.average_precisions,
            "precision": ratio(counts.true, counts.predicted),
            "recall": ratio(counts.true, counts.positives),
            "f1": ratio(2 * counts.true, counts.predicted + counts.positives),
            "threshold": self.thresholds,
            **counts._asdict(),
            "supported": self.supported,
        }

    def for_report(self) -> dict[str, Any]:
        """What a report shows about the classes, which it ranks by AP."""
        return {
            "classes": self.class_table,
            "quality": self.average_precisions,
            "positives": self.counts.positives,
            "reliability": self.reliability,
            "thresholds": self.fitted_thresholds(),
            "curve": self.curve,
        }


@dataclass(frozen=True)
class SingleLabelCounts:
    """The counts of a single-label evaluation.

    Attributes:
      class_images: int64 [C], images of each class.
      correct: int64 [len(top), C], images with their label among the best k classes.
      reliability: of the best class of each image.
    """

    top: tuple[int, ...]
    class_images: np.ndarray
    correct: np.ndarray
    loss_sum: float
    reliability: Reliability

    @property
    def images(self) -> int:
        """Number of images of all classes."""
        return int(self.class_images.sum())

    def correct_at(self, k: int) -> int:
        """Number of images with their label among the best k classes."""
        return int(self.correct[self.top.index(k)].sum())

    @functools.cached_property
    def class_table(self) -> dict[str, np.ndarray]:
        """Per class, [C] each: images and top-k accuracy, NaN for a class without an image."""
        fractions = {
            f"top_{k}": ratio(correct, self.class_images, empty=np.nan)
            for k, correct in zip(self.top, self.correct, strict=True)
        }
        return {"images": self.class_images, **fractions}

    def for_report(self) -> dict[str, Any]:
        """What a report shows about the classes, which it ranks by accuracy."""
        return {
            "classes": self.class_table,
            "quality": self.class_table[f"top_{self.top[0]}"],
            "positives": self.class_images,
            "reliability": self.reliability,
        }
