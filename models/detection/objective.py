"""The four losses of Faster R-CNN, and the objective that the trainer calls.

Normalized as in tf-faster-rcnn: each loss of an image is a sum over its drawn anchors or regions,
divided by how many were drawn, positive or negative. A batch's loss is the mean over its images.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from data.common.errors import UserError
from data.lists.classes import Classes
from data.outputs.dense_files import draw_objects, drawn_batch, found_objects
from models.detection.targets import AnchorTargets, RegionTargets
from models.distributed.base import Distributed

PARTS = ("rpn_objectness", "rpn_boxes", "region_classes", "region_boxes")
RPN_SIGMA, REGION_SIGMA = 3.0, 1.0


def smooth_l1(difference: tf.Tensor, sigma: float) -> tf.Tensor:
    """(sigma x)^2 / 2 if |x| < 1 / sigma^2, else |x| - 1 / (2 sigma^2); x is `difference`."""
    size, corner = tf.abs(difference), 1 / sigma**2
    return tf.where(size < corner, 0.5 * sigma**2 * tf.square(size), size - 0.5 * corner)


def rpn_losses(
    scores: tf.Tensor, offsets: tf.Tensor, targets: AnchorTargets
) -> tuple[tf.Tensor, tf.Tensor]:
    """Scalars rpn_objectness and rpn_boxes of an image.

    Args:
      scores: [A], a logit per anchor: one sigmoid is equivalent to the softmax of two logits.
      offsets: [A, 4].
    """
    scores, offsets = (tf.gather(values, targets.indices) for values in (scores, offsets))
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(targets.objectness, scores)
    distance = tf.reduce_sum(smooth_l1(offsets - targets.offsets, RPN_SIGMA), axis=-1)
    return _mean(entropy, targets.used), _mean(distance * targets.objectness, targets.used)


def region_losses(
    logits: tf.Tensor, offsets: tf.Tensor, targets: RegionTargets
) -> tuple[tf.Tensor, tf.Tensor]:
    """region_classes and region_boxes [B] of images with R regions each.

    Args:
      logits: [B, R, C + 1], background first.
      offsets: [B, R, C, 4], for each class; only those of the target's class enter the loss.
    """
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(targets.classes, logits)
    own = tf.gather(offsets, tf.maximum(targets.classes - 1, 0), batch_dims=2)
    distance = tf.reduce_sum(smooth_l1(own - targets.offsets, REGION_SIGMA), axis=-1)
    foreground = tf.cast(targets.classes > 0, tf.float32)
    return _mean(entropy, targets.used), _mean(distance * foreground, targets.used)


def _mean(values: tf.Tensor, used: tf.Tensor) -> tf.Tensor:
    """The mean over the last axis of the values that are used; 0 if none are."""
    return tf.math.divide_no_nan(
        tf.reduce_sum(values * used, axis=-1), tf.reduce_sum(used, axis=-1)
    )


class DetectionObjective:
    """The sum of the four losses, as `Trainer` calls it.

    Args:
      class_num: C, classes of objects.

    Attributes:
      state: empty; nothing is kept between steps.
    """

    def __init__(self, class_num: int) -> None:
        self.class_num = class_num
        self.state: dict[str, tf.Variable] = {}

    def check(self, batch: Any) -> None:
        """Raises UserError for objects of a `DetectionBatch` that cannot be learned."""
        boxes, classes = np.asarray(batch.boxes), np.asarray(batch.classes)
        if classes.size and classes.max() >= self.class_num:
            raise UserError(
                f"an object is of class {classes.max()}, but classes are 0 to {self.class_num - 1}"
            )
        real = boxes[classes >= 0]
        if not np.isfinite(real).all() or (real[:, 2:] <= real[:, :2]).any():
            raise UserError("a box is empty or not finite")

    def preview(self, batch: Any) -> np.ndarray:
        """The images of a batch with their boxes, [B, H, W, 3] in [-1, 1], for TensorBoard."""
        names = Classes.of_number(self.class_num).names

        def draw(pixels: np.ndarray, boxes: np.ndarray, classes: np.ndarray) -> Image.Image:
            real = classes >= 0
            return draw_objects(pixels, found_objects(boxes[real], None, classes[real], names))

        return drawn_batch(draw, batch.images, batch.boxes, batch.classes)

    def begin_step(self, batch: Any, step: tf.Tensor, workers: Distributed) -> None:
        """Does nothing: the micro-batches of a step share nothing."""

    def loss(
        self, network: Any, batch: Any, extra: None = None
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """The mean loss of the images of a `DetectionBatch`, and its four parts by name."""
        parts = network.losses(batch)
        return tf.add_n(list(parts.values())), parts
