"""What training minimizes: a loss of `LOSSES`, its class weights, and mixup of its inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from data.common.errors import UserError
from models import losses
from models.distributed.base import Distributed
from models.losses import LOSSES, ClassWeightOptions, Counters, mix_labels

TINY = 1e-30  # Both gamma draws of mixup may round to 0 when alpha is small.


class ClassWeights:
    """The class weights of the pretraining loss (spec section 3), from two counters per class.

    Attributes:
      state: the counters by their released checkpoint names: `Variable` counts positive batches,
        `Variable_1` negative ones.
    """

    def __init__(self, class_num: int, options: ClassWeightOptions, seed: int) -> None:
        self.class_num, self.options, self.seed = class_num, options, seed
        self.state = {
            name: tf.Variable(tf.zeros([class_num]), trainable=False, name=name)
            for name in ("Variable", "Variable_1")
        }

    def update(
        self,
        global_label_index: tf.Tensor,
        global_label_value: tf.Tensor,
        step: tf.Tensor,
        workers: Distributed,
    ) -> tf.Tensor:
        """Updates the counters with a step's labels [A*B, K]; returns its weights, float32 [C]."""
        options = self.options
        mask = losses.positive_mask(
            global_label_index, global_label_value, self.class_num, options.mask_thres
        )
        if options.loss_statistics == "global":
            mask = workers.any_positive(mask)  # Horovod: one small all-reduce of the class mask
        kept = losses.negative_draw(self.seed, step, self.class_num, options.neg_select)
        before = Counters(self.state["Variable"], self.state["Variable_1"])
        after = losses.update_counters(mask, kept, before)
        for counter, value in zip(before, after, strict=True):
            counter.assign(value)
        return losses.class_weights(mask, kept, after, options)


class Objective:
    """A loss of `LOSSES` as `Trainer` calls it: `check`, `begin_step`, then `loss` per micro-batch.

    Batches are `data.input.pipeline.Batch`.

    Args:
      name: a key of `LOSSES`.
      class_weights: for a loss whose `Loss.class_weights` is True.
      numbers: the keyword-only arguments of the loss function.

    Attributes:
      state: checkpoint name -> variable, empty without class weights.

    Raises:
      UserError: an argument that the loss function rejects.
    """

    def __init__(
        self, name: str, class_weights: ClassWeights | None = None, **numbers: float
    ) -> None:
        self.name, self._loss, self._numbers = name, LOSSES[name], numbers
        self._class_weights = class_weights
        self.state: dict[str, tf.Variable] = class_weights.state if class_weights else {}
        # On a dummy image, so that an argument the loss rejects ends the run before it starts.
        self.loss_of(tf.zeros([1, 1]), tf.zeros([1, 1], tf.int32), tf.ones([1, 1]))

    def check(self, batch: Any) -> None:
        """Raises UserError if this loss is not defined for the labels of a step.

        Called once before each optimizer step.
        """
        if not self._loss.single_label:
            return
        index, value = np.asarray(batch.global_label_index), np.asarray(batch.global_label_value)
        labels = ((index >= 0) & (value > 0)).sum(axis=1)
        others = labels[labels != 1]
        if others.size:
            raise UserError(
                f"--loss={self.name} needs exactly one label per image, but one has {others[0]}: "
                "for several use --loss=bce"
            )

    def preview(self, batch: Any) -> tf.Tensor:
        """The images of a batch, [B, H, W, 3] in [-1, 1], for TensorBoard."""
        return batch.images

    def begin_step(self, batch: Any, step: tf.Tensor, workers: Distributed) -> tf.Tensor | None:
        """Class weights float32 [C] of the optimizer step `step`, or None."""
        if not self._class_weights:
            return None
        labels = batch.global_label_index, batch.global_label_value
        return self._class_weights.update(*labels, step, workers)

    def loss(
        self, network: Any, batch: Any, class_weights: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Runs the network in training mode; returns a micro-batch's mean loss, and no parts."""
        logits = network(batch.images, training=True)
        return self.loss_of(logits, batch.label_index, batch.label_value, class_weights), {}

    def loss_of(
        self,
        logits: tf.Tensor,
        label_index: tf.Tensor,
        label_value: tf.Tensor,
        class_weights: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Scalar: the mean loss of a micro-batch, from logits [B, C] and labels [B, K]."""
        weights = [class_weights] if self._loss.class_weights else []
        return self._loss.function(logits, label_index, label_value, *weights, **self._numbers)

    def probabilities(self, logits: tf.Tensor) -> tf.Tensor:
        """Probabilities [B, C] of logits [B, C]: softmax for one label per image, else sigmoid."""
        return tf.nn.softmax(logits) if self._loss.single_label else tf.sigmoid(logits)


class Mixup:
    """Blends every image of a batch, and its labels, with another image of the batch.

    Mixup, Zhang et al., arXiv 1710.09412. One fraction per batch, from Beta(alpha, alpha): a
    stateless function of (seed, step, rank), so a resumed run blends as the uninterrupted one
    would. Image i is blended with image B-1-i, as in timm; the batch is already in random order.
    """

    def __init__(self, alpha: float, seed: int, rank: int = 0) -> None:
        self._alpha, self._seed, self._rank = alpha, seed, rank

    def __call__(self, batch: Any, step: tf.Tensor) -> Any:
        """A batch of blended images [B, H, W, 3] and labels [B, 2K].

        Args:
          batch: `data.input.pipeline.Batch`.
          step: int64 [].
        """
        key = tf.stack([tf.constant(self._seed, tf.int64), step * 2**16 + self._rank])
        first, second = tf.unstack(tf.random.stateless_gamma([2], key, self._alpha))
        fraction = first / tf.maximum(first + second, TINY)
        order = tf.range(tf.shape(batch.images)[0])[::-1]
        blended = fraction * batch.images + (1.0 - fraction) * tf.gather(batch.images, order)
        index, value = mix_labels(batch.label_index, batch.label_value, order, fraction)
        return batch._replace(images=blended, label_index=index, label_value=value)
