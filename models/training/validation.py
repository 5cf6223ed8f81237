"""Evaluates the current weights on held-out records during training."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from models.metrics.counts import UndefinedError


class Validation:
    """Callable that evaluates a network on the held-out records and returns metrics by name.

    If nothing can be measured, as without a positive label, it warns and returns NaN.

    Args:
      network: a backbone.
      probabilities: logits [B, C] -> probabilities [B, C].
      batches: returns a finite iterable of batches with `crops` float32 [B, 1, S, S, 3],
        `label_index` and `label_value` [B, K].
      evaluator: returns a new evaluator (models/metrics/evaluators.py).
      average: optional `WeightAverage`, evaluated as well, under names with `ema_`.
    """

    def __init__(
        self,
        network: Any,
        probabilities: Callable[[tf.Tensor], tf.Tensor],
        batches: Callable[[], Iterable[Any]],
        evaluator: Callable[[], Any],
        average: Any | None = None,
    ) -> None:
        self._network, self._probabilities = network, probabilities
        self._batches, self._evaluator, self._average = batches, evaluator, average

    def __call__(self) -> dict[str, float]:
        metrics = self._measure()
        if self._average:
            with self._average.in_place():
                metrics |= {f"ema_{name}": value for name, value in self._measure().items()}
        return metrics

    def names(self) -> list[str]:
        """The metrics' names, from an evaluation of one artificial image. All workers call this."""
        names = self._names()
        return [*names, *(f"ema_{name}" for name in names if self._average)]

    def _names(self) -> list[str]:
        evaluator, classes = self._evaluator(), self._network.class_num
        scores = np.full([1, classes], 1 / classes, np.float32)
        evaluator.update(scores, np.zeros([1, 1], np.int32), np.ones([1, 1], np.float32))
        return list(evaluator.result())

    def show(self, rank: int) -> None:
        """Prints the metrics, one per line. All workers call this, and rank 0 prints."""
        lines = [f"{name}: {value:.6f}" for name, value in self().items()]
        if rank == 0:
            print("\n".join(lines))

    def _measure(self) -> dict[str, float]:
        evaluator = self._evaluator()
        for batch in self._batches():
            scores = self._scores(batch.crops[:, 0]).numpy()
            evaluator.update(scores, batch.label_index, batch.label_value)
        try:
            return evaluator.result()
        except UndefinedError as error:
            logging.warning("the evaluation on --val_dir has no result: %s", error)
            return dict.fromkeys(self._names(), math.nan)

    @tf.function(reduce_retracing=True, autograph=False)
    def _scores(self, images: tf.Tensor) -> tf.Tensor:
        return self._probabilities(self._network(images, training=False))
