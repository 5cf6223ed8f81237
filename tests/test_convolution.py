"""Convolution in 16 bits; its padding is tested with the network (test_resnet.py)."""

import numpy as np
import pytest
import tensorflow as tf

from models.convolution import convolve


def values_and_gradients(dtype: str, stride: int, size: int) -> list[np.ndarray]:
    draw = np.random.default_rng(5)
    x = tf.cast(draw.uniform(-1, 1, (2, 9, 9, 8)).astype(np.float32), dtype)
    kernel = tf.Variable(draw.uniform(-1, 1, (size, size, 8, 8)).astype(np.float32))

    @tf.function
    def run():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = convolve(x, kernel, stride)
            total = tf.reduce_sum(tf.square(tf.cast(y, tf.float32)))
        return [y, *tape.gradient(total, [x, kernel])]

    y, dx, dkernel = run()
    assert (y.dtype, dx.dtype, dkernel.dtype) == (x.dtype, x.dtype, tf.float32)
    return [tf.cast(tensor, tf.float32).numpy() for tensor in (y, dx, dkernel)]


@pytest.mark.parametrize(("stride", "size"), [(1, 1), (2, 1), (1, 3), (2, 3), (2, 7)])
def test_bfloat16_is_near_float32(stride, size):
    exact = values_and_gradients("float32", stride, size)
    for near, full in zip(values_and_gradients("bfloat16", stride, size), exact, strict=True):
        assert 0 < np.abs(near - full).max() < 0.02 * np.abs(full).max()
