"""Runs a segmentation network on images of any size; measures its mIoU on held-out records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from models.distributed.base import Distributed
from models.metrics.segmentation import SegmentationEvaluator


class Segmenter:
    """Predicts the class of each pixel: the one with the highest mean probability.

    Args:
      network: `DeepLab`.
      scales: scale factors of the image over which probabilities are averaged.
      flip: whether to average over the mirror images, too.
    """

    def __init__(self, network: Any, scales: Sequence[float] = (1.0,), flip: bool = False) -> None:
        self._network, self._scales, self._flip = network, tuple(scales), flip

    def __call__(self, image: tf.Tensor) -> np.ndarray:
        """int32 [H, W] of an image float32 [1, H, W, 3] in [-1, 1]."""
        probabilities = self._network.probabilities(image, self._scales, self._flip)
        return tf.argmax(probabilities[0], -1, tf.int32).numpy()


class SegmentationMeasure:
    """mIoU of a network on held-out images; see `models.training.validation.Measure`.

    Args:
      segmenter: of the network.
      class_num: C, the background included.
      images: returns this worker's `data.input.dense.SegmentationImage`s.
      job: the workers that share the images.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        class_num: int,
        images: Callable[[], Iterable[Any]],
        job: Distributed,
    ) -> None:
        self.by_class: dict[str, np.ndarray] = {}
        self._segmenter, self._images = segmenter, images
        self._evaluator = lambda: SegmentationEvaluator(class_num, job)

    def __call__(self) -> dict[str, float]:
        """The metrics by name. Raises UndefinedError if no pixel is labeled."""
        evaluator = self._evaluator()
        for item in self._images():
            evaluator.update(self._segmenter(item.image), item.mask)
        counts = evaluator.measure()
        self.by_class = counts.by_class()
        return counts.metrics()

    def names(self) -> list[str]:
        """The metrics' names, from an evaluation of one pixel."""
        evaluator = self._evaluator()
        evaluator.update(np.zeros([1, 1], np.int32), np.zeros([1, 1], np.int32))
        return list(evaluator.result())
