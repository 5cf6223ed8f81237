"""Batch norm followed by ReLU.

It is TensorFlow's fused operation, but for float32 on CPUs: models/decomposed_batch_norm.py.

x is [B, H, W, C], or [B, C, H, W] in NCHW; gamma, beta, means and variances are float32 [C].
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from models import decomposed_batch_norm as parts

ReduceMoments = Callable[[Sequence[tf.Tensor]], Sequence[tf.Tensor]]


class Moments(NamedTuple):
    """Mean and (unbiased) variance of each channel."""

    mean: tf.Tensor
    variance: tf.Tensor


class Normalized(NamedTuple):
    """y is like x; `moments` are those of the batch that it was normalized by."""

    y: tf.Tensor
    moments: Moments


def running_stats(
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    mean: tf.Tensor,
    variance: tf.Tensor,
    epsilon: float,
    data_format: str = "NHWC",
) -> tf.Tensor:
    """Normalizes by moments that do not depend on x: inference, and training with frozen norms."""
    if _is_decomposed(x, data_format):
        return parts.scale_shift_relu(
            x, *parts.scale_and_shift(gamma, beta, mean, variance, epsilon)
        )
    y, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=gamma,
        offset=beta,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        data_format=data_format,
        is_training=False,
    )
    return tf.nn.relu(y)


def batch_stats(
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    epsilon: float,
    data_format: str = "NHWC",
    known: Moments | None = None,
) -> Normalized:
    """Normalizes by the moments of x itself. The moments returned have no gradient.

    `known` are these moments where they have been computed already; the fused operation computes
    them anyway.
    """
    if _is_decomposed(x, data_format):
        return _decomposed_batch_stats(x, gamma, beta, epsilon, known)
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=gamma,
        offset=beta,
        mean=[],
        variance=[],
        epsilon=epsilon,
        data_format=data_format,
        is_training=True,
    )
    return Normalized(tf.nn.relu(y), Moments(mean, variance))


def synchronized_stats(
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    epsilon: float,
    reduce_moments: ReduceMoments,
    workers: int,
    data_format: str = "NHWC",
) -> Normalized:
    """Normalizes by the moments of the batches of all workers, which must be of one size.

    `reduce_moments` averages tensors over the workers, differentiably.
    """
    exact = tf.cast(x, tf.float32)
    own_mean, own_variance = _moments(exact, data_format)
    # Raw moments add up over workers. In float64, because their difference is a variance that may
    # be a millionth of them.
    own_mean = tf.cast(own_mean, tf.float64)
    raw = [own_mean, tf.cast(own_variance, tf.float64) + tf.square(own_mean)]
    mean, mean_square = reduce_moments(raw)  # Horovod: all-reduce in the forward pass
    variance = tf.cast(tf.maximum(mean_square - tf.square(mean), 0.0), tf.float32)
    mean = tf.cast(mean, tf.float32)
    scale, offset = parts.scale_and_shift(gamma, beta, mean, variance, epsilon)
    if _is_decomposed(x, data_format):
        y = parts.scale_shift_relu(x, scale, offset)
    else:
        shape = [-1] if data_format == "NHWC" else [-1, 1, 1]
        exact = exact * tf.reshape(scale, shape) + tf.reshape(offset, shape)
        y = tf.nn.relu(tf.cast(exact, x.dtype))
    count = parts.value_count(x, gamma.shape[0]) * workers
    return Normalized(y, Moments(mean, variance * _correction(count)))


def _is_decomposed(x: tf.Tensor, data_format: str) -> bool:
    # Not on GPUs, which may round what a matrix product multiplies (TF32).
    on_cpu = not tf.config.list_logical_devices("GPU")
    return on_cpu and data_format == "NHWC" and x.dtype == tf.float32


def _decomposed_batch_stats(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float, known: Moments | None
) -> Normalized:
    correction = _correction(parts.value_count(x, gamma.shape[0]))
    if known is None:
        mean, variance = parts.moments(tf.stop_gradient(x))
        known = Moments(mean, variance * correction)
    else:
        mean, variance = known.mean, known.variance / correction
    return Normalized(parts.normalize_relu(x, gamma, beta, mean, variance, epsilon), known)


def _moments(x: tf.Tensor, data_format: str) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and (biased) variance of each channel."""
    if _is_decomposed(x, data_format):
        return parts.moments(x)
    return tf.nn.moments(x, [0, 1, 2] if data_format == "NHWC" else [0, 2, 3])


def _correction(count: int | tf.Tensor) -> float | tf.Tensor:
    """Unbiased / biased variance of `count` values, as the fused operation has it."""
    if isinstance(count, int):
        return count / max(count - 1, 1)
    count = tf.cast(count, tf.float32)
    return count / tf.maximum(count - 1, 1)
