"""Evaluates the current weights on held-out records during training."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from absl import logging

from models.metrics.counts import UndefinedError


class Measure(Protocol):
    """Measures a network on held-out records. All workers call it and get the same.

    Attributes:
      by_class: columns [C] of the last call, by name; {} if there are none to show.
    """

    by_class: Mapping[str, np.ndarray]

    def __call__(self) -> dict[str, float]:
        """The metrics by name. Raises UndefinedError if there is nothing to measure."""

    def names(self) -> list[str]:
        """The names of the metrics, before anything is measured."""


class Validation:
    """Callable that measures a network with its current weights, and their average if there is one.

    If nothing can be measured, as without a positive label, it warns and returns NaN.

    Args:
      measure: of a task, such as `LabelMeasure`.
      average: optional `WeightAverage`, evaluated as well, under names with `ema_`.
    """

    def __init__(self, measure: Measure, average: Any | None = None) -> None:
        self._measure, self._average = measure, average

    def __call__(self) -> dict[str, float]:
        metrics = self._measured()
        if self._average:
            with self._average.in_place():
                metrics |= {f"ema_{name}": value for name, value in self._measured().items()}
        return metrics

    def names(self) -> list[str]:
        """The metrics' names. All workers call this."""
        names = self._measure.names()
        return [*names, *(f"ema_{name}" for name in names if self._average)]

    def show(self, rank: int, names: Sequence[str]) -> None:
        """Prints the metrics, one per line, and those of each class that occurs.

        All workers call this, and rank 0 prints.

        Args:
          names: of the classes.
        """
        lines = [f"{name}: {value:.6f}" for name, value in self().items()]
        columns = self._measure.by_class
        if columns:
            lines += ["", f"{'class':<24}" + "".join(f"{name:>12}" for name in columns)]
        for name, *values in zip(names, *columns.values(), strict=False):
            if not np.isnan(values).any():
                lines.append(f"{name:<24}" + "".join(f"{value:>12.6g}" for value in values))
        if rank == 0:
            print("\n".join(lines))

    def _measured(self) -> dict[str, float]:
        try:
            return self._measure()
        except UndefinedError as error:
            logging.warning("the evaluation on --val_dir has no result: %s", error)
            return dict.fromkeys(self._measure.names(), math.nan)


class LabelMeasure:
    """Measures the labels that a network predicts.

    Args:
      network: a backbone.
      probabilities: logits [B, C] -> probabilities [B, C].
      batches: returns a finite iterable of batches with `crops` float32 [B, 1, S, S, 3],
        `label_index` and `label_value` [B, K].
      evaluator: returns a new evaluator (models/metrics/evaluators.py).
    """

    def __init__(
        self,
        network: Any,
        probabilities: Callable[[tf.Tensor], tf.Tensor],
        batches: Callable[[], Iterable[Any]],
        evaluator: Callable[[], Any],
    ) -> None:
        self.by_class: Mapping[str, np.ndarray] = {}  # evaluate.py has a report of them
        self._network, self._probabilities = network, probabilities
        self._batches, self._evaluator = batches, evaluator

    def __call__(self) -> dict[str, float]:
        """See `Measure`."""
        evaluator = self._evaluator()
        for batch in self._batches():
            scores = self._scores(batch.crops[:, 0]).numpy()
            evaluator.update(scores, batch.label_index, batch.label_value)
        return evaluator.result()

    def names(self) -> list[str]:
        """See `Measure`; from an evaluation of one artificial image."""
        evaluator, classes = self._evaluator(), self._network.class_num
        scores = np.full([1, classes], 1 / classes, np.float32)
        evaluator.update(scores, np.zeros([1, 1], np.int32), np.ones([1, 1], np.float32))
        return list(evaluator.result())

    @tf.function(reduce_retracing=True, autograph=False)
    def _scores(self, images: tf.Tensor) -> tf.Tensor:
        return self._probabilities(self._network(images, training=False))
