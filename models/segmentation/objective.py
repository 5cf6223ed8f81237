"""The loss of segmentation, as the trainer calls it."""

from typing import Any

import numpy as np
import tensorflow as tf

from data.common.errors import UserError
from data.dense.annotation import IGNORED
from data.outputs.dense_files import draw_mask, drawn_batch
from models.distributed.base import Distributed


def pixel_cross_entropy(logits: tf.Tensor, masks: tf.Tensor) -> tf.Tensor:
    """Softmax cross-entropy, scalar float32: mean over an image's labeled pixels, then over images.

    The released DeepLab takes the mean over all labeled pixels of a worker's batch. Ours is the
    mean of the images' means, because these can be averaged: two workers or micro-batches with one
    image each equal one with both, however many pixels are labeled in each. An image without a
    labeled pixel adds 0.

    Args:
      logits: [B, H, W, C].
      masks: int32 [B, H, W], classes, or `IGNORED`.
    """
    # The sparse operation takes twice as long on a CPU. `IGNORED` becomes a row of zeros here.
    labels = tf.one_hot(masks, logits.shape[-1])
    losses = tf.nn.softmax_cross_entropy_with_logits(labels, tf.cast(logits, tf.float32))
    weights = tf.cast(masks != IGNORED, tf.float32)
    pixels = tf.reduce_sum(weights, [1, 2])
    return tf.reduce_mean(tf.reduce_sum(losses * weights, [1, 2]) / tf.maximum(pixels, 1.0))


class SegmentationObjective:
    """`pixel_cross_entropy` of batches with `images` [B, H, W, 3] and `masks` [B, H, W].

    Args:
      class_num: C, the background included.

    Attributes:
      state: empty; no variables of its own.
    """

    def __init__(self, class_num: int) -> None:
        self.class_num = class_num
        self.state: dict[str, tf.Variable] = {}

    def check(self, batch: Any) -> None:
        """Raises UserError for a mask with a class that the network does not have."""
        masks = np.asarray(batch.masks)
        wrong = masks[((masks < 0) | (masks >= self.class_num)) & (masks != IGNORED)]
        if wrong.size:
            raise UserError(
                f"a mask has class {wrong[0]}, but classes are 0 to {self.class_num - 1}, and"
                f" {IGNORED} where pixels are ignored: check --class_num"
            )

    def preview(self, batch: Any) -> np.ndarray:
        """The images of a batch under their masks, [B, H, W, 3] in [-1, 1], for TensorBoard."""
        return drawn_batch(draw_mask, batch.images, batch.masks)

    def begin_step(self, batch: Any, step: tf.Tensor, workers: Distributed) -> None:
        """Does nothing: no micro-batch depends on the others."""

    def loss(
        self, network: Any, batch: Any, begun: None = None
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Runs the network in training mode; returns a micro-batch's mean loss, and no parts."""
        return pixel_cross_entropy(network(batch.images, training=True), batch.masks), {}
