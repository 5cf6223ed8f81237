"""Metrics of the present weights on held-out records, while training."""

from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from models.workers import Workers


class Validation:
    """Callable that evaluates a network; the records are read anew at every call.

    Args:
      batches: makes a finite iterable of padded batches, of one length on every worker.
      evaluator: makes an empty accumulator with `update`, `merge` and `result`.
    """

    def __init__(
        self,
        network: Any,
        probabilities: Callable[[tf.Tensor], tf.Tensor],
        batches: Callable[[], Iterable[Any]],
        evaluator: Callable[[], Any],
        workers: Workers,
    ) -> None:
        self._network, self._probabilities = network, probabilities
        self._batches, self._evaluator, self._workers = batches, evaluator, workers

    def __call__(self) -> dict[str, float]:
        evaluator = self._evaluator()
        for batch in self._batches():
            scores = self._scores(batch.images).numpy()
            evaluator.update(
                scores, batch.label_index.numpy(), batch.label_value.numpy(), batch.valid.numpy()
            )
        return evaluator.result()

    @tf.function(reduce_retracing=True)
    def _scores(self, images: tf.Tensor) -> tf.Tensor:
        return self._probabilities(self._network(images, training=False))
