"""Objectives: a loss with its options and state, in the form that the training step uses.

Every objective has
  `.name`                  what --loss calls it,
  `.state`                 dict of checkpoint name -> tf.Variable (empty when it keeps none),
  `.check(...)`            once per optimizer step, before it: are these labels that it can learn,
  `.begin_step(...)`       once per optimizer step, with the labels of all its micro-batches,
  `.loss(...)`             once per micro-batch, the mean over it,
  `.probabilities(logits)` what a prediction reports.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from data.common.errors import UserError
from models import losses
from models.distributed.base import Distributed
from models.losses import Counters, MultiLabelOptions


class Objective:
    """A loss without state or class weights; subclasses say which loss."""

    name = ""

    def __init__(self) -> None:
        self.state: dict[str, tf.Variable] = {}

    def check(self, global_label_index: tf.Tensor, global_label_value: tf.Tensor) -> None:
        """Raises UserError for labels [A*B, K] that this loss has no meaning for."""

    def begin_step(
        self,
        global_label_index: tf.Tensor,
        global_label_value: tf.Tensor,
        step: tf.Tensor,
        workers: Distributed,
    ) -> tf.Tensor | None:
        """Class weights float32 [C] of the optimizer step `step`, or None.

        Args:
          step_index, step_value: [A*B, K], this worker's labels of all A micro-batches.
        """
        del global_label_index, global_label_value, step, workers

    def loss(
        self,
        logits: tf.Tensor,
        label_index: tf.Tensor,
        label_value: tf.Tensor,
        class_weights: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Scalar: the mean over this micro-batch; logits [B, C], labels [B, K]."""
        raise NotImplementedError

    def probabilities(self, logits: tf.Tensor) -> tf.Tensor:
        """[B, C] in [0, 1]: independent of each other unless a subclass says otherwise."""
        return tf.sigmoid(logits)


class MultiLabelObjective(Objective):
    """The pretraining loss (spec section 3), with its two class counters as state.

    The counters carry their released names: `Variable` is positive, `Variable_1` is negative.
    """

    name = "multi_label"

    def __init__(self, class_num: int, options: MultiLabelOptions, seed: int) -> None:
        super().__init__()
        self.class_num, self.options, self.seed = class_num, options, seed
        self.state = {
            name: tf.Variable(tf.zeros([class_num]), trainable=False, name=name)
            for name in ("Variable", "Variable_1")
        }

    def begin_step(
        self,
        global_label_index: tf.Tensor,
        global_label_value: tf.Tensor,
        step: tf.Tensor,
        workers: Distributed,
    ) -> tf.Tensor:
        """Counts the batch and returns the weights float32 [C] (updated first, then used)."""
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

    def loss(
        self,
        logits: tf.Tensor,
        label_index: tf.Tensor,
        label_value: tf.Tensor,
        class_weights: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Scalar; without `class_weights` (evaluation) every class weighs 1."""
        return losses.sigmoid_loss(
            logits, label_index, label_value, class_weights, self.options.positive_weight
        )


class WeightedBCEObjective(Objective):
    """Sigmoid cross-entropy; a positive label counts `positive_weight` times."""

    name = "bce"

    def __init__(self, positive_weight: float = 1.0) -> None:
        super().__init__()
        if positive_weight <= 0:
            raise UserError(f"positive_weight must be above 0, not {positive_weight}")
        self.positive_weight = positive_weight

    def loss(
        self,
        logits: tf.Tensor,
        label_index: tf.Tensor,
        label_value: tf.Tensor,
        class_weights: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Scalar: `losses.sigmoid_loss` of this micro-batch."""
        return losses.sigmoid_loss(
            logits, label_index, label_value, class_weights, self.positive_weight
        )


class AsymmetricLossObjective(Objective):
    """Asymmetric loss (arXiv 2009.14119), with the paper's focusing and probability shift."""

    name = "asymmetric"

    def __init__(
        self, gamma_negative: float = 4.0, gamma_positive: float = 1.0, clip: float = 0.05
    ) -> None:
        super().__init__()
        if min(gamma_negative, gamma_positive) < 0 or not 0.0 <= clip < 1.0:
            raise UserError(
                "asymmetric loss: gammas must not be below 0 and clip must be in [0, 1), got"
                f" {gamma_negative}, {gamma_positive} and {clip}"
            )
        self.gammas, self.clip = (gamma_negative, gamma_positive), clip

    def loss(
        self,
        logits: tf.Tensor,
        label_index: tf.Tensor,
        label_value: tf.Tensor,
        class_weights: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Scalar: `losses.asymmetric_loss` of this micro-batch."""
        del class_weights
        return losses.asymmetric_loss(logits, label_index, label_value, *self.gammas, self.clip)


class SoftmaxObjective(Objective):
    """Softmax cross-entropy for one label an image (spec section 4, finetuning)."""

    name = "softmax"

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise UserError(f"label_smoothing must be in [0, 1), not {label_smoothing}")
        self.label_smoothing = label_smoothing

    def check(self, global_label_index: tf.Tensor, global_label_value: tf.Tensor) -> None:
        """Raises UserError where an image has not exactly one label."""
        labels = ((np.asarray(global_label_index) >= 0) & (np.asarray(global_label_value) > 0)).sum(
            axis=1
        )
        others = labels[labels != 1]
        if others.size:
            raise UserError(
                f"--loss=softmax needs exactly one label an image, and one has {others[0]}: "
                "for several use --loss=bce"
            )

    def loss(
        self,
        logits: tf.Tensor,
        label_index: tf.Tensor,
        label_value: tf.Tensor,
        class_weights: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Scalar: `losses.softmax_loss` of this micro-batch."""
        del class_weights
        return losses.softmax_loss(logits, label_index, label_value, self.label_smoothing)

    def probabilities(self, logits: tf.Tensor) -> tf.Tensor:
        """[B, C], summing to 1 over the classes."""
        return tf.nn.softmax(logits)
