"""Runs a detector on images of any size; measures its average precision on held-out records."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from models.distributed.base import Distributed
from models.metrics.detection import DetectionEvaluator


class Objects(NamedTuple):
    """Objects found in an image, best first: boxes [D, 4], scores [D], classes int32 [D].

    Boxes are (y1, x1, y2, x2) in pixels of the image as it is stored.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


class Detector:
    """Finds the objects of one image at a time, in one graph for images of any size.

    Args:
      network: `FasterRCNN`.
    """

    def __init__(self, network: Any) -> None:
        self._detect = tf.function(
            network.detect,
            autograph=False,
            input_signature=[
                tf.TensorSpec([1, None, None, 3], tf.float32),
                tf.TensorSpec([1, 2], tf.int32),
            ],
        )

    def __call__(self, image: tf.Tensor, sizes: tf.Tensor, scale: np.ndarray) -> Objects:
        """The objects of an image.

        Args:
          image: float32 [1, H, W, 3] in [-1, 1], resized and padded.
          sizes: int32 [1, 2], its height and width without the padding.
          scale: float32 [4], factors by which boxes grew when the image was resized.
        """
        boxes, scores, classes = (values.numpy()[0] for values in self._detect(image, sizes))
        found = classes >= 0
        return Objects(boxes[found] / scale, scores[found], classes[found])


class DetectionMeasure:
    """Average precision of a network on held-out images; see `models.training.validation.Measure`.

    Args:
      network: `FasterRCNN`.
      images: returns this worker's `data.input.dense.DetectionImage`s.
      job: the workers that share the images.
      coco: whether to measure COCO's metrics, too.
    """

    def __init__(
        self, network: Any, images: Callable[[], Iterable[Any]], job: Distributed, coco: bool
    ) -> None:
        self.by_class: dict[str, np.ndarray] = {}
        self._detector, self._images, self._rank = Detector(network), images, job.rank
        self._evaluator = lambda: DetectionEvaluator(network.class_num, job, coco)

    def __call__(self) -> dict[str, float]:
        """The metrics by name. Raises UndefinedError if there is no object that counts."""
        evaluator = self._evaluator()
        for item in self._images():
            objects = self._detector(item.image, item.sizes, item.scale)
            truth = item.boxes, item.classes, item.difficult
            # Names may repeat in records, numbers do not.
            evaluator.update(f"{item.number:09d} {item.name}", objects, *truth)
        measured = evaluator.measure()
        self.by_class = measured.by_class()
        return measured.metrics()

    def names(self) -> list[str]:
        """The metrics' names, from an evaluation of a dummy image."""
        evaluator, box = self._evaluator(), np.array([[0, 0, 1, 1]], np.float32)
        none = np.zeros([0, 4]), np.zeros(0), np.zeros(0, np.int32)
        evaluator.update(f"worker {self._rank}", none, box, np.zeros(1, np.int32))
        return list(evaluator.result())
