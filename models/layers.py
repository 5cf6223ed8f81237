"""The operations of the networks: convolution, batch norm with ReLU, and recomputation.

x is [B, H, W, C], or [B, C, H, W] in NCHW; gamma, beta, means and variances are float32 [C].
Uses raw fused operations instead of Keras layers because Keras 3 does not fuse batch norm.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from models.architecture import norm_names

ReduceMoments = Callable[[Sequence[tf.Tensor]], Sequence[tf.Tensor]]

# oneDNN overruns its memory in the kernel gradient of a strided 1 x 1 convolution that has
# fewer input channels than a SIMD register holds floats (16 with AVX-512, 8 with AVX2; TensorFlow
# 2.18 and 2.21). With 16 or more channels it is safe on every CPU, and faster than subsampling.
_SAFE_STRIDED_CHANNELS = 16


class Moments(NamedTuple):
    """Mean and unbiased variance of each channel, float32 [C], without gradients."""

    mean: tf.Tensor
    variance: tf.Tensor


class Normalized(NamedTuple):
    """Output y, with the shape and dtype of x, and the moments of the batch."""

    y: tf.Tensor
    moments: Moments


def convolve(
    x: tf.Tensor, kernel: tf.Tensor, stride: int = 1, data_format: str = "NHWC", dilation: int = 1
) -> tf.Tensor:
    """Convolves x, without bias, in its dtype; the kernel is float32 [size, size, in, out].

    With stride 1 the padding is SAME; with a larger stride it is the same on both sides for any
    size of x (spec section 2, "fixed padding"). The kernel's taps are `dilation` pixels apart.
    """
    size = kernel.shape[0]
    if stride > 1 and size > 1:
        # Not with EXPLICIT padding, which takes the bfloat16 gradients off oneDNN's fast path.
        side, none = [(size - 1) // 2, size - 1 - (size - 1) // 2], [0, 0]
        x = tf.pad(
            x, [none, side, side, none] if data_format == "NHWC" else [none, none, side, side]
        )
    elif stride > 1 and kernel.shape[2] < _SAFE_STRIDED_CHANNELS:
        # Equivalent: a 1 x 1 kernel reads only the pixels at multiples of the stride.
        x = x[:, ::stride, ::stride] if data_format == "NHWC" else x[:, :, ::stride, ::stride]
        stride = 1
    padding = "SAME" if stride == 1 else "VALID"
    return tf.nn.conv2d(
        x, tf.cast(kernel, x.dtype), stride, padding, data_format, dilations=dilation
    )


def scale_and_shift(
    gamma: tf.Tensor, beta: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Scale and offset, [C] each, equivalent to batch norm with these biased moments."""
    scale = gamma * tf.math.rsqrt(variance + epsilon)
    return scale, beta - mean * scale


def normalize_by_running_stats(
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    mean: tf.Tensor,
    variance: tf.Tensor,
    epsilon: float,
    data_format: str = "NHWC",
) -> tf.Tensor:
    """Batch norm by the moving mean and variance, then ReLU; y has the shape and dtype of x.

    For inference, and for training with frozen batch norms.
    """
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


def normalize_by_batch(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float, data_format: str = "NHWC"
) -> Normalized:
    """Batch norm by the moments of x itself, then ReLU."""
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


def normalize_by_all_batches(
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    epsilon: float,
    reduce_moments: ReduceMoments,
    workers: int,
    data_format: str = "NHWC",
) -> Normalized:
    """Batch norm by the moments of all workers' batches, all of the same size, then ReLU.

    `reduce_moments` is a differentiable average over the `workers`.
    """
    exact = tf.cast(x, tf.float32)
    axes = [0, 1, 2] if data_format == "NHWC" else [0, 2, 3]
    # Means and mean squares can be averaged. In float64, because the variance is a difference that
    # may be a millionth of its terms.
    own_mean, own_variance = (tf.cast(m, tf.float64) for m in tf.nn.moments(exact, axes))
    # Horovod: an all-reduce in the forward pass.
    mean, mean_square = reduce_moments([own_mean, own_variance + tf.square(own_mean)])
    variance = tf.cast(tf.maximum(mean_square - tf.square(mean), 0.0), tf.float32)
    mean = tf.cast(mean, tf.float32)
    shape = [-1] if data_format == "NHWC" else [-1, 1, 1]
    scale, offset = (
        tf.reshape(value, shape) for value in scale_and_shift(gamma, beta, mean, variance, epsilon)
    )
    y = tf.nn.relu(tf.cast(exact * scale + offset, x.dtype))
    # Unbiased variance, as the fused operation reports it.
    count = tf.cast(tf.size(x) // gamma.shape[0] * workers, tf.float32)
    unbiased = variance * count / tf.maximum(count - 1, 1)
    return Normalized(y, Moments(tf.stop_gradient(mean), tf.stop_gradient(unbiased)))


BatchMoments = dict[str, Moments]
"""Name of a batch norm -> the moments of the batch that it normalized."""


class BatchNorms:
    """The batch norms of a network, each followed by ReLU, by their checkpoint names.

    Args:
      variables: checkpoint name -> variable, of every batch norm (`architecture.norm_names`).
      decay: of the moving statistics.
      epsilon: added to the variance.
      freeze: use the moving statistics in training, too.
      reduce_moments: differentiable average of tensors over the `workers`; None: each worker
        normalizes by its own batch.
      data_format: NHWC or NCHW.
    """

    def __init__(
        self,
        variables: Mapping[str, tf.Variable],
        decay: float,
        epsilon: float,
        freeze: bool = False,
        reduce_moments: ReduceMoments | None = None,
        workers: int = 1,
        data_format: str = "NHWC",
    ) -> None:
        self._variables, self._decay, self.epsilon = variables, decay, epsilon
        self._freeze, self._data_format = freeze, data_format
        self._reduce_moments, self._workers = reduce_moments, workers

    def of(self, variables: Mapping[str, tf.Variable]) -> "BatchNorms":
        """Batch norms over other variables, with the same settings."""
        other = copy.copy(self)
        other._variables = variables
        return other

    def __call__(self, x: tf.Tensor, name: str, training: bool, moments: BatchMoments) -> tf.Tensor:
        """x after the batch norm `name` and ReLU; adds the batch's moments to `moments`."""
        gamma, beta, mean, variance = (self._variables[n] for n in norm_names(name))
        epsilon, data_format = self.epsilon, self._data_format
        if not training or self._freeze:
            return normalize_by_running_stats(x, gamma, beta, mean, variance, epsilon, data_format)
        if self._reduce_moments is None:
            y, moments[name] = normalize_by_batch(x, gamma, beta, epsilon, data_format)
        else:
            y, moments[name] = normalize_by_all_batches(
                x, gamma, beta, epsilon, self._reduce_moments, self._workers, data_format
            )
        return y

    def update(self, moments: BatchMoments) -> None:
        """Moves the moving statistics toward the moments of a batch."""
        if not moments:
            return
        # All in one vector: seven operations per statistic would be slow to trace.
        values = [value for of_batch in moments.values() for value in of_batch]
        statistics = [self._variables[n] for norm in moments for n in norm_names(norm)[2:]]
        old, new = (tf.concat(tensors, axis=0) for tensors in (statistics, values))
        moved = old * self._decay + new * (1 - self._decay)
        sizes = [statistic.shape[0] for statistic in statistics]
        for statistic, value in zip(statistics, tf.split(moved, sizes), strict=True):
            statistic.assign(value)


def recompute(run: Callable[[tf.Tensor], Any], x: tf.Tensor) -> Any:
    """Returns `run(x)`, keeping only x for the backward pass, which calls `run` again.

    Gradient checkpointing (Chen et al., "Training Deep Nets with Sublinear Memory Cost").
    """
    return tf.recompute_grad(run)(x)
