"""Evaluates one checkpoint: metrics and the hardest examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models.distributed.base import Distributed
from models.metrics.results import MultiLabelMetrics, SingleLabelMetrics
from models.metrics.sums import gather

NOBODY = -1  # the position of no image
# Classes with fewer positives say little of the network; ranked only when all are so rare.
ENOUGH_POSITIVES = 5


class HardestExamples:
    """For each class the images where the scores were most wrong, kept while they stream by.

    Attributes:
      false_positives: int64 [keep, C], positions of the negatives with the highest scores.
      false_negatives: int64 [keep, C], positions of the positives with the lowest scores.
        Best example first; NOBODY where there are fewer.
    """

    def __init__(self, class_num: int, keep: int = 3, positive_threshold: float = 0.5) -> None:
        shape = keep, class_num
        self._positive_threshold = positive_threshold
        self._rank = {
            "false_positives": np.full(shape, -np.inf),
            "false_negatives": np.full(shape, -np.inf),
        }
        self.false_positives, self.false_negatives = np.full(shape, NOBODY), np.full(shape, NOBODY)

    def update(
        self,
        scores: np.ndarray,
        label_index: np.ndarray,
        label_value: np.ndarray,
        positions: np.ndarray,
    ) -> None:
        """Adds images with scores [B, C], padded-sparse labels [B, K] and positions [B]."""
        rows, columns = np.nonzero(label_index >= 0)
        labels = np.zeros(scores.shape, np.float32)
        labels[rows, label_index[rows, columns]] = label_value[rows, columns]
        positive = labels >= self._positive_threshold
        negative = ~positive & (labels >= 0)
        self._merge("false_positives", self.false_positives, scores, negative, positions)
        self._merge("false_negatives", self.false_negatives, -scores, positive, positions)

    def gather(self, workers: Distributed) -> None:
        """Takes in the images of all workers; all of them call this and have the same."""
        for kind, kept in (
            ("false_positives", self.false_positives),
            ("false_negatives", self.false_negatives),
        ):
            ranks, shape = self._rank[kind], (-1, kept.shape[1])
            # Horovod: as integers, which are joined and not added up.
            values = gather(ranks.view(np.int64).ravel(), workers).view(np.float64).reshape(shape)
            owners = gather(kept.ravel(), workers).reshape(shape)
            # Of equals those that come first, as on one worker.
            order = np.lexsort((owners, -values), axis=0)[: len(kept)]
            ranks[:] = np.take_along_axis(values, order, axis=0)
            kept[:] = np.take_along_axis(owners, order, axis=0)

    def _merge(
        self,
        kind: str,
        kept: np.ndarray,
        scores: np.ndarray,
        candidates: np.ndarray,
        positions: np.ndarray,
    ) -> None:
        """Keeps, for each class, the highest of what is kept and of `scores` where `candidates`."""
        ranks = self._rank[kind]
        better = candidates & (scores > ranks[-1])
        columns = np.flatnonzero(better.any(axis=0))  # few, once the first images have passed
        chosen = better[:, columns]
        everyone = np.broadcast_to(positions[:, None], chosen.shape)
        values = np.concatenate([ranks[:, columns], np.where(chosen, scores[:, columns], -np.inf)])
        owners = np.concatenate([kept[:, columns], np.where(chosen, everyone, NOBODY)])
        order = np.argsort(-values, axis=0, kind="stable")[: len(kept)]
        ranks[:, columns] = np.take_along_axis(values, order, axis=0)
        kept[:, columns] = np.take_along_axis(owners, order, axis=0)


class Evaluation(NamedTuple):
    """One checkpoint, measured; `unreadable` images of all workers were left out."""

    checkpoint: str
    step: int | None
    metrics: MultiLabelMetrics | SingleLabelMetrics
    hardest: HardestExamples
    unreadable: int

    @property
    def title(self) -> str:
        """The checkpoint's own name with the folder it is in."""
        return "/".join(Path(self.checkpoint).parts[-2:])

    def quality(self) -> tuple[np.ndarray, np.ndarray]:
        """By what classes are ordered (AP or top-1), and their positives; [C] each."""
        table = self.metrics.class_table()
        if isinstance(self.metrics, MultiLabelMetrics):
            return table["average_precision"], table["positives"]
        return table[f"top_{self.metrics.top[0]}"], table["images"]

    def ranked_classes(self) -> np.ndarray:
        """Classes with enough positives, the worst first."""
        quality, positives = self.quality()
        measured = ~np.isnan(quality)
        if isinstance(self.metrics, MultiLabelMetrics):
            measured &= self.metrics.supported
        frequent = measured & (positives >= ENOUGH_POSITIVES)
        chosen = np.flatnonzero(frequent if frequent.any() else measured)
        return chosen[np.lexsort((-positives[chosen], quality[chosen]))]


def evaluate(
    predict: Callable[[np.ndarray], np.ndarray],
    batches: Iterable[Any],
    evaluator: Any,
    hardest: HardestExamples | None = None,
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
        if hardest:
            hardest.update(scores, batch.label_index, batch.label_value, batch.positions)
