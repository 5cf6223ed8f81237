"""Batch norm with ReLU from faster operations than the fused one: float32 NHWC on CPUs.

There the fused operation is slow forwards: oneDNN writes channels-last results half a cache line at
a time, past the cache. Here the moments are products with a row of ones; scale, offset and ReLU are
one pass, a depthwise 1 x 1 convolution that TensorFlow fuses with the two operations after it; only
the gradient is the fused operation's. Together 1.2 to 3 times as fast forwards
(docs/performance.md).

x is [B, H, W, C] with C known; scales, offsets, gamma, beta and moments are [C].

Each step is a function for one shape, so that its operations are made once and not for each of the
network's hundred batch norms anew, which would put off the first step by seconds.
"""

import functools
from collections.abc import Callable

import tensorflow as tf

Shape = tuple[int | None, ...]


def scale_and_shift(
    gamma: tf.Tensor, beta: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Scale and offset, [C] each, that batch norm by these moments amounts to."""
    scale = gamma * tf.math.rsqrt(variance + epsilon)
    return scale, beta - mean * scale


def moments(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and (biased) variance of each channel."""
    return _moments(tuple(x.shape))(x)


def scale_shift_relu(x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """ReLU of x * scale + offset."""
    return _scale_shift_relu(tuple(x.shape))(x, scale, offset)


def normalize_relu(
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    mean: tf.Tensor,
    variance: tf.Tensor,
    epsilon: float,
) -> tf.Tensor:
    """Batch norm of x by its own moments, and ReLU.

    The gradient of x has the share that goes through the moments; these have none themselves.
    """
    return _normalize_relu(tuple(x.shape), epsilon)(x, gamma, beta, mean, variance)


@functools.lru_cache
def _moments(shape: Shape) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    @_traced(shape, channel_inputs=0)
    def run(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        count = tf.cast(value_count(x, x.shape[-1]), x.dtype)
        mean = _channel_sums(x) / count
        return mean, _channel_sums(tf.math.squared_difference(x, mean)) / count

    return run


@functools.lru_cache
def _scale_shift_relu(shape: Shape) -> Callable[..., tf.Tensor]:
    @_traced(shape, channel_inputs=2)
    @tf.custom_gradient
    def run(x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor) -> tuple:
        y = _scale_offset_relu(x, scale, offset)

        def gradient(dy: tf.Tensor) -> tuple[tf.Tensor, ...]:
            dy = tf.raw_ops.ReluGrad(gradients=dy, features=y)
            return dy * scale, _channel_sums(dy * x), _channel_sums(dy)

        return y, gradient

    return run


@functools.lru_cache
def _normalize_relu(shape: Shape, epsilon: float) -> Callable[..., tf.Tensor]:
    @_traced(shape, channel_inputs=4)
    @tf.custom_gradient
    def run(
        x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor
    ) -> tuple:
        y = _scale_offset_relu(x, *scale_and_shift(gamma, beta, mean, variance, epsilon))

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
            return dx, dgamma, dbeta, None, None

        return y, gradient

    return run


def _traced(shape: Shape, channel_inputs: int) -> Callable[[Callable], Callable]:
    """Makes a graph function of x of `shape` and as many tensors [C]."""
    channels = tf.TensorSpec(shape[-1:])
    signature = [tf.TensorSpec(shape), *[channels] * channel_inputs]
    return tf.function(autograph=False, input_signature=signature)


def _scale_offset_relu(x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    kernel = tf.reshape(scale, [1, 1, -1, 1])
    y = tf.nn.depthwise_conv2d(x, kernel, strides=[1, 1, 1, 1], padding="VALID")
    return tf.nn.relu(tf.nn.bias_add(y, offset))


def _channel_sums(x: tf.Tensor) -> tf.Tensor:
    """Sums over all axes but the last: a matrix product takes a third of a reduction's time."""
    rows = tf.reshape(x, [-1, x.shape[-1]])
    return tf.reshape(tf.matmul(tf.ones([1, value_count(x, x.shape[-1])]), rows), [-1])


def value_count(x: tf.Tensor, channels: int) -> int | tf.Tensor:
    """How many values a channel of x has, whose axis is any; a number where the graph knows it."""
    size = x.shape.num_elements() or tf.size(x)
    return size // channels
