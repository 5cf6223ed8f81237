"""Convolution without bias, padded as in the released network, in any compute type."""

import platform
from pathlib import Path

import tensorflow as tf

CPU_INFO = Path("/proc/cpuinfo")


def convolve(x: tf.Tensor, kernel: tf.Tensor, stride: int, data_format: str = "NHWC") -> tf.Tensor:
    """Convolves x, in its own type, with a square float32 kernel [size, size, inputs, outputs].

    From stride 2 on the padding is the same at both sides whatever the size of x is (spec section
    2, "fixed padding"); with stride 1 it is SAME.
    """
    size = kernel.shape[0]
    if stride > 1 and size > 1:
        # Not by EXPLICIT padding: with it the bfloat16 gradients leave oneDNN's fast path.
        side, none = [(size - 1) // 2, size - 1 - (size - 1) // 2], [0, 0]
        x = tf.pad(
            x, [none, side, side, none] if data_format == "NHWC" else [none, none, side, side]
        )
    padding = "SAME" if stride == 1 else "VALID"
    if x.dtype == tf.bfloat16 and slow_bfloat16_gradients():
        return _with_float32_gradients(x, kernel, stride, padding)
    return tf.nn.conv2d(x, tf.cast(kernel, x.dtype), stride, padding, data_format=data_format)


def slow_bfloat16_gradients() -> bool:
    """Whether this processor has the forward convolution alone in bfloat16.

    On x86 without AVX-512, oneDNN computes both gradients by a reference loop, 25 times as slow.
    """
    if platform.machine() != "x86_64" or tf.config.list_logical_devices("GPU"):
        return False
    return CPU_INFO.exists() and "avx512" not in CPU_INFO.read_text(encoding="utf-8")


def _with_float32_gradients(
    x: tf.Tensor, kernel: tf.Tensor, stride: int, padding: str
) -> tf.Tensor:
    """x stays in bfloat16 between the passes, so the memory is that of bfloat16."""

    @tf.custom_gradient
    def run(x: tf.Tensor, kernel: tf.Tensor) -> tuple:
        low = tf.cast(kernel, x.dtype)

        def gradient(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            dy = tf.cast(dy, tf.float32)
            strides = [1, stride, stride, 1]
            with tf.control_dependencies([dy]):  # or it would be done, and kept, early
                exact, exact_kernel = tf.cast(x, tf.float32), tf.cast(low, tf.float32)
            dx = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(x),
                filter=exact_kernel,
                out_backprop=dy,
                strides=strides,
                padding=padding,
            )
            dkernel = tf.raw_ops.Conv2DBackpropFilter(
                input=exact,
                filter_sizes=tf.shape(kernel),
                out_backprop=dy,
                strides=strides,
                padding=padding,
            )
            return tf.cast(dx, x.dtype), dkernel

        return tf.nn.conv2d(x, low, stride, padding), gradient

    return run(x, tf.convert_to_tensor(kernel))
