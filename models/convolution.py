"""Convolution without bias, padded as in the released network, in any compute type."""

import tensorflow as tf

# oneDNN overruns its memory in the gradient to the kernel of a strided 1 x 1 convolution that has
# fewer input channels than a SIMD register holds floats (16 with AVX-512, 8 with AVX2; TensorFlow
# 2.18 and 2.21). From this many on it is safe on every processor, and faster than subsampling.
_SAFE_STRIDED_CHANNELS = 16


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
    elif stride > 1 and kernel.shape[2] < _SAFE_STRIDED_CHANNELS:
        # The same values: a 1 x 1 kernel sees only the pixels at multiples of the stride.
        x = x[:, ::stride, ::stride] if data_format == "NHWC" else x[:, :, ::stride, ::stride]
        stride = 1
    padding = "SAME" if stride == 1 else "VALID"
    return tf.nn.conv2d(x, tf.cast(kernel, x.dtype), stride, padding, data_format=data_format)
