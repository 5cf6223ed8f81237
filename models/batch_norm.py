"""Batch norm followed by ReLU: every convolution of the network but the first one reads it.

On GPUs and in 16 bits it is TensorFlow's fused operation. In float32 on CPUs that one is slow
forwards: oneDNN writes channels-last results half a cache line at a time, past the cache. There the
moments are products with a row of ones; scale, offset and ReLU are one pass, a depthwise 1 x 1
convolution that TensorFlow fuses with the two operations after it; only the gradient is the fused
operation's. Together 1.2 to 3 times as fast forwards (docs/performance.md).

x is [B, H, W, C], or [B, C, H, W] in NCHW; gamma, beta, means and variances are float32 [C].
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

ReduceMoments = Callable[[Sequence[tf.Tensor]], Sequence[tf.Tensor]]


class Moments(NamedTuple):
    """Mean and (unbiased) variance of each channel."""

    mean: tf.Tensor
    variance: tf.Tensor


class Normalised(NamedTuple):
    """y is like x; `moments` are those of the batch that it was normalised by."""

    y: tf.Tensor
    moments: Moments


def affine(
    gamma: tf.Tensor, beta: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Scale and offset, [C] each, that batch norm by these moments amounts to."""
    scale = gamma * tf.math.rsqrt(variance + epsilon)
    return scale, beta - mean * scale


def by_moments(
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    mean: tf.Tensor,
    variance: tf.Tensor,
    epsilon: float,
    data_format: str = "NHWC",
) -> tf.Tensor:
    """Normalises by moments that do not depend on x: inference, and training with frozen norms."""
    if _in_parts(x, data_format):
        return _affine_relu(x, *affine(gamma, beta, mean, variance, epsilon))
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


def by_batch(
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    epsilon: float,
    data_format: str = "NHWC",
    known: Moments | None = None,
) -> Normalised:
    """Normalises by the moments of x itself. The moments returned have no gradient.

    `known` are these moments where they have been computed already; the fused operation computes
    them anyway.
    """
    if _in_parts(x, data_format):
        return _by_batch_in_parts(x, gamma, beta, epsilon, known)
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
    return Normalised(tf.nn.relu(y), Moments(mean, variance))


def by_all_batches(
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    epsilon: float,
    reduce_moments: ReduceMoments,
    workers: int,
    data_format: str = "NHWC",
) -> Normalised:
    """Normalises by the moments of the batches of all workers, which must be of one size.

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
    scale, offset = affine(gamma, beta, mean, variance, epsilon)
    if _in_parts(x, data_format):
        y = _affine_relu(x, scale, offset)
    else:
        shape = [-1] if data_format == "NHWC" else [-1, 1, 1]
        exact = exact * tf.reshape(scale, shape) + tf.reshape(offset, shape)
        y = tf.nn.relu(tf.cast(exact, x.dtype))
    return Normalised(y, Moments(mean, _unbiased(variance, x, workers)))


def _in_parts(x: tf.Tensor, data_format: str) -> bool:
    on_cpu = not tf.config.list_logical_devices("GPU")
    return on_cpu and data_format == "NHWC" and x.dtype == tf.float32


@tf.custom_gradient
def _affine_relu(x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor) -> tuple:
    y = _scale_offset_relu(x, scale, offset)

    def gradient(dy: tf.Tensor) -> tuple[tf.Tensor, ...]:
        dy = tf.raw_ops.ReluGrad(gradients=dy, features=y)
        return dy * scale, _column_sums(dy * x), _column_sums(dy)

    return y, gradient


def _by_batch_in_parts(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float, known: Moments | None
) -> Normalised:
    @tf.custom_gradient
    def run(
        x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor
    ) -> tuple:
        y = _scale_offset_relu(x, *affine(gamma, beta, mean, variance, epsilon))

        def gradient(dy: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
            dx, dgamma, dbeta, *_ = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=tf.raw_ops.ReluGrad(gradients=dy, features=y),
                x=x,
                scale=gamma,
                reserve_space_1=mean,
                reserve_space_2=variance,
                reserve_space_3=[],
                epsilon=epsilon,
                is_training=True,
            )
            return dx, dgamma, dbeta, None, None  # dx has the share that went through the moments

        return y, gradient

    if known is None:
        channels = x.shape[-1]
        rows = tf.reshape(tf.stop_gradient(x), [-1, channels])
        mean, variance, unbiased = (tf.reshape(m, [channels]) for m in _batch_moments(rows))
        known = Moments(mean, unbiased)
    else:
        mean, variance = known.mean, known.variance / _correction(x, known.variance)
    return Normalised(run(x, gamma, beta, mean, variance), known)


def _scale_offset_relu(x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    kernel = tf.reshape(scale, [1, 1, -1, 1])
    y = tf.nn.depthwise_conv2d(x, kernel, strides=[1, 1, 1, 1], padding="VALID")
    return tf.nn.relu(tf.nn.bias_add(y, offset))


def _column_sums(x: tf.Tensor) -> tf.Tensor:
    """Sums over all axes but the last: a matrix product takes a third of a reduction's time."""
    rows = tf.reshape(x, [-1, x.shape[-1]])
    return tf.matmul(tf.ones([1, tf.shape(rows)[0]]), rows)[0]


def _moments(x: tf.Tensor, data_format: str = "NHWC") -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and (biased) variance of each channel."""
    if not _in_parts(x, data_format):  # a GPU may round what a matrix product multiplies (TF32)
        return tf.nn.moments(x, [0, 1, 2] if data_format == "NHWC" else [0, 2, 3])
    return _moments_of_rows(tf.reshape(x, [-1, x.shape[-1]]))


def _moments_of_rows(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and (biased) variance of each column of [N, C]."""
    count = tf.shape(rows)[0]
    ones, count = tf.ones([1, count]), tf.cast(count, rows.dtype)
    mean = tf.matmul(ones, rows)[0] / count
    return mean, tf.matmul(ones, tf.math.squared_difference(rows, mean))[0] / count


# A function, so that its operations are made once and not for each batch norm anew, which would
# put off the first step by seconds.
@tf.function(autograph=False, input_signature=[tf.TensorSpec([None, None], tf.float32)])
def _batch_moments(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Mean, (biased) variance and unbiased variance of each column of [N, C]."""
    mean, variance = _moments_of_rows(rows)
    return mean, variance, _unbiased(variance, rows)


def _unbiased(variance: tf.Tensor, x: tf.Tensor, workers: int = 1) -> tf.Tensor:
    """As the fused operation returns it."""
    return variance * _correction(x, variance, workers)


def _correction(x: tf.Tensor, variance: tf.Tensor, workers: int = 1) -> tf.Tensor:
    count = tf.cast(tf.size(x) // tf.size(variance) * workers, tf.float32)
    return count / tf.maximum(count - 1, 1)
