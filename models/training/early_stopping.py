"""Keeps the best checkpoint, and stops a run whose metric no longer improves."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

from data.common.errors import UserError
from models.checkpoints.folder import CheckpointFolder
from models.metrics import definitions


class EarlyStopping:
    """Watches one metric of the evaluations.

    Args:
      metric: its name in the log.
      patience: number of evaluations without improvement after which the run ends; 0: never.
      checkpoints: the folder for the best checkpoint, separate from the run's latest ones.
    """

    def __init__(self, metric: str, patience: int, checkpoints: CheckpointFolder) -> None:
        self.checkpoints = checkpoints
        self._metric, self._patience = metric, patience
        known = definitions.find(metric)
        self._lower_is_better = known is not None and known.better == definitions.LOWER
        worst = math.inf if self._lower_is_better else -math.inf
        self._value = tf.Variable(worst, dtype=tf.float64)
        self._evaluations_since = tf.Variable(0, dtype=tf.int64)

    def progress(self) -> dict[str, tf.Variable]:
        """The scalars that a resume restores, by name (see `Trainer.progress`)."""
        return {"best_value": self._value, "evaluations_since_best": self._evaluations_since}

    def check(self, names: Iterable[str]) -> None:
        """Raises UserError unless the metric is one of these."""
        if self._metric not in names:
            raise UserError(
                f"--best_metric={self._metric} is not evaluated: use one of {', '.join(names)}"
            )

    def observe(self, metrics: Mapping[str, Any]) -> bool:
        """Whether `metrics` are the best so far. Raises UserError if they lack the metric.

        NaN, from an evaluation that could not measure anything, is ignored.
        """
        self.check(metrics)
        value, best = float(metrics[self._metric]), float(self._value.numpy())
        if math.isnan(value):
            return False
        if value < best if self._lower_is_better else value > best:
            self._value.assign(value)
            self._evaluations_since.assign(0)
            return True
        self._evaluations_since.assign_add(1)
        return False

    @property
    def should_stop(self) -> bool:
        """Whether `patience` evaluations in a row were no better."""
        return 0 < self._patience <= int(self._evaluations_since.numpy())
