"""Losses as pure functions of logits and labels, and `LOSSES`, the table of values of --loss.

Labels are padded-sparse everywhere: `label_index` int32 [B, K], padded with -1, and `label_value`
float32 [B, K]. A class that is not listed has value 0; a value of -1 means unknown and adds nothing
to a loss or a gradient. A class appears at most once in a row.
`sparse_from_dense` converts dense labels [B, C] to this form. To add a loss, write a function here
and a line in `LOSSES` (docs/extending.md); models/training/objectives.py calls it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from data.common.errors import UserError
from data.common.lazy_module import LazyModule

if TYPE_CHECKING:
    import tensorflow as tf
else:
    tf = LazyModule("tensorflow")  # flags.py imports LOSSES, and --help must be quick

PADDING = -1
UNKNOWN = -1.0
MIN_PROBABILITY = 1e-12


@dataclass(frozen=True)
class ClassWeightOptions:
    """Constants of the class weights (spec section 3; defaults of the released code).

    `negative_floor` is 0.01 in the paper's formula and 0.001 in the released code, which we follow.
    `loss_statistics`: whether a class is positive by the labels of all workers ("global", our
    choice, so that N workers with batch b train like one with N*b) or of each alone ("local").

    Raises:
      UserError: a value is out of range.
    """

    mask_thres: float = 0.7
    neg_select: float = 0.3
    positive_offset: float = 0.01
    negative_offset: float = 8.0
    counter_scale: float = 10.0
    positive_floor: float = 0.01
    negative_cutoff: float = 0.01
    negative_floor: float = 0.001
    loss_statistics: str = "global"

    def __post_init__(self) -> None:
        if not 0.0 <= self.neg_select <= 1.0:
            raise UserError(f"neg_select is a probability in [0, 1], not {self.neg_select}")
        if self.loss_statistics not in ("global", "local"):
            raise UserError(f"loss_statistics is 'global' or 'local', not {self.loss_statistics!r}")
        if min(self.positive_offset, self.negative_offset, self.counter_scale) <= 0:
            raise UserError("positive_offset, negative_offset and counter_scale must be above 0")


class Counters(NamedTuple):
    """Numbers of consecutive batches in which each class was positive, or negative, float32 [C].

    Their checkpoint names are Variable and Variable_1.
    """

    positive: tf.Tensor
    negative: tf.Tensor


def check_shapes(logits: tf.Tensor, label_index: tf.Tensor, label_value: tf.Tensor) -> None:
    """Raises UserError unless logits are [B, C], label_index integer [B, K], label_value [B, K]."""
    if logits.shape.rank != 2:
        raise UserError(f"logits must be [batch, classes], not {logits.shape}")
    if not label_index.dtype.is_integer:
        raise UserError(f"label_index must hold integers, not {label_index.dtype.name}")
    rows = logits.shape[:1]
    for name, labels in (("label_index", label_index), ("label_value", label_value)):
        if labels.shape.rank != 2 or not labels.shape[:1].is_compatible_with(rows):
            raise UserError(
                f"{name} must be [batch, labels] with the batch of logits {logits.shape},"
                f" not {labels.shape}"
            )
    if not label_index.shape.is_compatible_with(label_value.shape):
        raise UserError(
            f"label_index {label_index.shape} and label_value {label_value.shape} differ in shape"
        )


def sparse_from_dense(labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Padded-sparse form of dense labels [B, C]: (label_index, label_value), each [B, K].

    Raises:
      UserError: the labels have another rank.
    """
    labels = tf.convert_to_tensor(labels)
    if labels.shape.rank != 2:
        raise UserError(f"dense labels must be [batch, classes], not {labels.shape}")
    where = tf.where(labels != 0)
    value_rows = where[:, 0]
    rows = tf.shape(labels, out_type=tf.int64)[0]

    def pad(values: tf.Tensor, padding: float) -> tf.Tensor:
        ragged = tf.RaggedTensor.from_value_rowids(values, value_rows, nrows=rows, validate=False)
        return ragged.to_tensor(tf.cast(padding, values.dtype))

    return pad(tf.cast(where[:, 1], tf.int32), PADDING), pad(tf.gather_nd(labels, where), 0)


def mix_labels(
    label_index: tf.Tensor, label_value: tf.Tensor, order: tf.Tensor, fraction: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Labels of `fraction * images + (1 - fraction) * images[order]` (mixup, arXiv 1710.09412).

    A class listed for both images becomes one entry, which is unknown if either of them is.

    Args:
      label_index, label_value: [B, K].
      order: int32 [B], the row of each image's partner.
      fraction: float32 scalar in [0, 1], the weight of the image itself.

    Returns:
      label_index and label_value [B, 2K].
    """
    other_index, other_value = tf.gather(label_index, order), tf.gather(label_value, order)
    same = (label_index[:, :, None] == other_index[:, None, :]) & (label_index >= 0)[:, :, None]
    own = tf.where(label_value < 0, UNKNOWN, fraction * label_value)
    other = tf.where(other_value < 0, UNKNOWN, (1.0 - fraction) * other_value)
    partner = tf.reduce_sum(tf.where(same, other[:, None, :], 0.0), axis=2)
    own = tf.where((own < 0) | (partner < 0), UNKNOWN, own + partner)
    merged = tf.reduce_any(same, axis=1)
    index = tf.concat([label_index, tf.where(merged, PADDING, other_index)], axis=1)
    return index, tf.concat([own, tf.where(merged, 0.0, other)], axis=1)


# ---- Class weights of the pretraining loss ------------------------------------------------------


def positive_mask(
    label_index: tf.Tensor, label_value: tf.Tensor, class_num: int, mask_thres: float
) -> tf.Tensor:
    """bool [C]: the classes with any label >= `mask_thres` (spec section 3, step 1)."""
    positives = tf.boolean_mask(label_index, (label_index >= 0) & (label_value >= mask_thres))
    ones = tf.ones_like(positives, tf.bool)
    return tf.tensor_scatter_nd_update(tf.zeros([class_num], tf.bool), positives[:, None], ones)


def negative_draw(
    seed: int | tf.Tensor, step: int | tf.Tensor, class_num: int, neg_select: float
) -> tf.Tensor:
    """bool [C]: the classes kept if negative, each with probability `neg_select`.

    A stateless function of (seed, step), so that a resumed run and all workers draw the same
    classes (spec section 3, decision).
    """
    key = tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)])
    uniform = tf.random.stateless_uniform([class_num], key, dtype=tf.float32, alg="philox")
    return uniform < neg_select


def update_counters(mask: tf.Tensor, kept: tf.Tensor, counters: Counters) -> Counters:
    """The counters after a batch (spec section 3, steps 2 and 3).

    Args:
      mask: bool [C], classes positive in this batch.
      kept: bool [C], from `negative_draw`. The count of a negative class not kept is unchanged.
      counters: float32 [C] each, before this batch.
    """
    positive = tf.where(mask, counters.positive + 1.0, 0.0)
    negative = tf.where(mask, 0.0, counters.negative + tf.cast(kept, tf.float32))
    return Counters(positive, negative)


def class_weights(
    mask: tf.Tensor, kept: tf.Tensor, counters: Counters, options: ClassWeightOptions
) -> tf.Tensor:
    """float32 [C]: the weight of each class (spec section 3, step 4).

    Args:
      mask, kept: as for `update_counters`.
      counters: its result.
    """
    positive = -_log10((options.positive_offset + counters.positive) / options.counter_scale)
    positive = tf.maximum(positive, options.positive_floor)
    negative = -_log10((options.negative_offset + counters.negative) / options.counter_scale)
    # As released: a weight up to the cutoff, 0.01, becomes the floor, 0.001.
    negative = tf.where(negative > options.negative_cutoff, negative, options.negative_floor)
    return tf.where(mask, positive, tf.where(kept, negative, 0.0))


def _log10(x: tf.Tensor) -> tf.Tensor:
    return tf.math.log(x) / tf.math.log(10.0)


# ---- Losses -------------------------------------------------------------------------------------


def sigmoid_loss(
    logits: tf.Tensor,
    label_index: tf.Tensor,
    label_value: tf.Tensor,
    weights: tf.Tensor | None = None,
    positive_weight: float = 1.0,
) -> tf.Tensor:
    """Weighted sum over classes of the batch's mean cross-entropy (spec section 3, steps 5 and 6).

    An entry costs `(1-y) x + (1 + (positive_weight-1) y) (log(1+exp(-|x|)) + max(-x, 0))`, which
    is softplus(x) for y = 0, as in nearly all entries. So the value and the gradient each take one
    dense pass as if all labels were 0, then a correction at the few listed entries. No dense label
    tensor is needed.

    Args:
      logits: float [B, C].
      label_index, label_value: [B, K].
      weights: float [C], or None for 1 each; they get no gradient.
      positive_weight: factor on the loss of a positive label.

    Returns:
      Scalar of the dtype of logits.

    Raises:
      UserError: the shapes do not match.
    """
    check_shapes(logits, label_index, label_value)
    if weights is None:
        weights = tf.ones([tf.shape(logits)[1]], logits.dtype)
    weights = tf.cast(weights, logits.dtype) / tf.cast(tf.shape(logits)[0], logits.dtype)
    where, labels = _entries(label_index, label_value, logits.dtype)
    entry_weights = tf.gather(weights, where[:, 1])
    scale = 1.0 + (positive_weight - 1.0) * labels
    known = labels >= 0

    @tf.custom_gradient
    def weighted_sum(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        listed = tf.gather_nd(x, where)
        # The loss of an entry minus softplus(x).
        more = (scale - 1.0) * tf.nn.softplus(-listed) - labels * listed
        more = tf.where(known, more, -tf.nn.softplus(listed))
        as_negatives = tf.reduce_sum(tf.linalg.matvec(tf.nn.softplus(x), weights))
        value = as_negatives + tf.reduce_sum(more * entry_weights)

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            entry = tf.where(known, (1.0 - labels) - scale * tf.sigmoid(-listed), 0.0)
            with tf.control_dependencies([value]):  # not in parallel, to save a dense tensor
                dense = tf.sigmoid(x) * (upstream * weights)
            return tf.tensor_scatter_nd_update(dense, where, entry * entry_weights * upstream)

        return value, gradient

    return weighted_sum(logits)


def multi_label_loss(
    logits: tf.Tensor,
    label_index: tf.Tensor,
    label_value: tf.Tensor,
    class_weights: tf.Tensor | None = None,
    *,
    positive_weight: float,
) -> tf.Tensor:
    """The pretraining loss (spec section 3); class weights float32 [C] are 1 by default.

    Shapes and errors as in `sigmoid_loss`.
    """
    return sigmoid_loss(logits, label_index, label_value, class_weights, positive_weight)


def bce_loss(
    logits: tf.Tensor, label_index: tf.Tensor, label_value: tf.Tensor, *, positive_weight: float
) -> tf.Tensor:
    """Sigmoid cross-entropy; `positive_weight` multiplies the loss of positive labels.

    Shapes and errors as in `sigmoid_loss`; also raises UserError if `positive_weight` is <= 0.
    """
    if positive_weight <= 0:
        raise UserError(f"positive_weight must be above 0, not {positive_weight}")
    return sigmoid_loss(logits, label_index, label_value, None, positive_weight)


def asymmetric_loss(
    logits: tf.Tensor,
    label_index: tf.Tensor,
    label_value: tf.Tensor,
    *,
    gamma_negative: float,
    gamma_positive: float,
    probability_shift: float,
) -> tf.Tensor:
    """Asymmetric loss (Ridnik et al., ICCV 2021, arXiv 2009.14119, equations 5 to 7).

    With p = sigmoid(x) and p_m = max(p - probability_shift, 0), an entry costs
    `-y (1-p)^gamma_positive log(p) - (1-y) p_m^gamma_negative log(1-p_m)`.
    Summed over classes, averaged over the batch. Shapes and errors as in `sigmoid_loss`; also
    raises UserError for a gamma below 0 or a shift outside [0, 1).
    """
    check_shapes(logits, label_index, label_value)
    if min(gamma_negative, gamma_positive) < 0:
        raise UserError(f"gammas must not be below 0: {gamma_negative}, {gamma_positive}")
    if not 0.0 <= probability_shift < 1.0:
        raise UserError(f"probability_shift must be in [0, 1), not {probability_shift}")
    where, labels = _entries(label_index, label_value, logits.dtype)
    listed = tf.gather_nd(logits, where)

    def negative(x: tf.Tensor) -> tf.Tensor:
        shifted = tf.maximum(tf.sigmoid(x) - probability_shift, 0.0)
        # 1 - p_m, from sigmoid(-x) because 1 - sigmoid(x) cancels for large x; avoids log(0).
        rest = tf.clip_by_value(tf.sigmoid(-x) + probability_shift, MIN_PROBABILITY, 1.0)
        return -(shifted**gamma_negative) * tf.math.log(rest)

    positive = tf.sigmoid(-listed) ** gamma_positive * tf.nn.softplus(-listed)
    entry = labels * positive + (1.0 - labels) * negative(listed)
    entry = tf.where(labels >= 0, entry, 0.0)
    loss = tf.tensor_scatter_nd_update(negative(logits), where, entry)
    return tf.reduce_sum(loss) / tf.cast(tf.shape(logits)[0], logits.dtype)


def softmax_loss(
    logits: tf.Tensor,
    label_index: tf.Tensor,
    label_value: tf.Tensor,
    *,
    label_smoothing: float,
) -> tf.Tensor:
    """Softmax cross-entropy with the label values as targets, averaged over the batch.

    A single label is one entry of value 1; mixup makes two (see `mix_labels`). `label_smoothing`
    moves that fraction of the target to the uniform distribution (arXiv 1512.00567, section 7).
    Shapes and errors as in `sigmoid_loss`; also raises UserError for a smoothing outside [0, 1).
    """
    check_shapes(logits, label_index, label_value)
    if not 0.0 <= label_smoothing < 1.0:
        raise UserError(f"label_smoothing must be in [0, 1), not {label_smoothing}")
    where, labels = _entries(label_index, label_value, logits.dtype)
    normalizer = tf.reduce_logsumexp(logits, axis=1)
    costs = tf.gather(normalizer, where[:, 0]) - tf.gather_nd(logits, where)
    batch = tf.cast(tf.shape(logits)[0], logits.dtype)
    loss = tf.reduce_sum(tf.maximum(labels, 0.0) * costs) / batch
    if label_smoothing:
        uniform = tf.reduce_mean(normalizer - tf.reduce_mean(logits, axis=1))
        loss = (1.0 - label_smoothing) * loss + label_smoothing * uniform
    return loss


def _entries(
    label_index: tf.Tensor, label_value: tf.Tensor, dtype: tf.DType
) -> tuple[tf.Tensor, tf.Tensor]:
    """(image, class) int32 [N, 2] and values [N] of the labels without the padding."""
    listed = tf.where(label_index >= 0)
    columns = tf.gather_nd(label_index, listed)
    where = tf.stack([tf.cast(listed[:, 0], tf.int32), tf.cast(columns, tf.int32)], axis=1)
    return where, tf.cast(tf.gather_nd(label_value, listed), dtype)


# ---- The table ----------------------------------------------------------------------------------


class Loss(NamedTuple):
    """A value of --loss.

    Attributes:
      function: (logits [B, C], label_index [B, K], label_value [B, K]) -> mean over the batch. Its
        keyword-only arguments are filled from the flags of the same names.
      meaning: its line in --help.
      single_label: images have exactly one label, and predictions are softmax, not sigmoid.
      class_weights: the fourth argument is class weights float32 [C] (spec section 3).
    """

    function: Callable[..., tf.Tensor]
    meaning: str
    single_label: bool = False
    class_weights: bool = False

    def numbers(self) -> list[str]:
        """Names of the function's keyword-only arguments."""
        parameters = inspect.signature(self.function).parameters.values()
        return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


LOSSES = {
    "multi_label": Loss(multi_label_loss, "pretraining loss of ML-Images", class_weights=True),
    "softmax": Loss(softmax_loss, "cross-entropy of one label per image", single_label=True),
    "bce": Loss(bce_loss, "sigmoid cross-entropy of several labels"),
    "asymmetric": Loss(asymmetric_loss, "asymmetric loss of several labels (arXiv 2009.14119)"),
}
