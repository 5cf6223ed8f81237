"""One checkpoint measured on labelled pictures: batches in; metrics and telling pictures out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

NOBODY = -1  # the position of no picture


class TellingPictures:
    """For each class the pictures where the scores were most wrong, kept while they stream by.

    Attributes:
      alarms: int64 [keep, C], positions of the negatives with the highest scores.
      misses: int64 [keep, C], positions of the positives with the lowest scores.
        Best example first; NOBODY where there are fewer.
    """

    def __init__(self, class_num: int, keep: int = 3, positive_threshold: float = 0.5) -> None:
        shape = keep, class_num
        self._positive_threshold = positive_threshold
        self._rank = {"alarms": np.full(shape, -np.inf), "misses": np.full(shape, -np.inf)}
        self.alarms, self.misses = np.full(shape, NOBODY), np.full(shape, NOBODY)

    def update(
        self,
        scores: np.ndarray,
        label_index: np.ndarray,
        label_value: np.ndarray,
        positions: np.ndarray,
    ) -> None:
        """Adds pictures with scores [B, C], padded-sparse labels [B, K] and positions [B]."""
        rows, columns = np.nonzero(label_index >= 0)
        labels = np.zeros(scores.shape, np.float32)
        labels[rows, label_index[rows, columns]] = label_value[rows, columns]
        positive = labels >= self._positive_threshold
        negative = ~positive & (labels >= 0)
        self.alarms = self._merge("alarms", self.alarms, scores, negative, positions)
        self.misses = self._merge("misses", self.misses, -scores, positive, positions)

    def _merge(
        self,
        kind: str,
        kept: np.ndarray,
        scores: np.ndarray,
        candidates: np.ndarray,
        positions: np.ndarray,
    ) -> np.ndarray:
        """Positions [keep, C] of the highest of what is kept and of `scores` where `candidates`."""
        everyone = np.broadcast_to(positions[:, None], scores.shape)
        ranks = np.concatenate([self._rank[kind], np.where(candidates, scores, -np.inf)])
        owners = np.concatenate([kept, np.where(candidates, everyone, NOBODY)])
        order = np.argsort(-ranks, axis=0, kind="stable")[: len(kept)]
        self._rank[kind] = np.take_along_axis(ranks, order, axis=0)
        return np.take_along_axis(owners, order, axis=0)


def evaluate(
    predict: Callable[[np.ndarray], np.ndarray],
    batches: Iterable[Any],
    evaluator: Any,
    telling: TellingPictures | None = None,
) -> None:
    """Runs the network over all batches and adds its scores to the accumulators.

    Args:
      predict: crops float32 [B, crops, S, S, 3] to scores [B, C].
      batches: with `crops`, `label_index`, `label_value` and `positions`.
      evaluator: a `MultiLabelEvaluator` or `SingleLabelEvaluator`.
    """
    for batch in batches:
        if not len(batch.crops):
            continue
        scores = predict(batch.crops)
        evaluator.update(scores, batch.label_index, batch.label_value)
        if telling:
            telling.update(scores, batch.label_index, batch.label_value, batch.positions)
