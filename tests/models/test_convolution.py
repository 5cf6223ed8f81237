"""Convolution in 16 bits and of few channels; its padding is tested in test_resnet.py."""

import subprocess
import sys
from pathlib import Path

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


# In a process of its own: what is tested for overruns memory, which may show much later or never.
STRIDED = """
import itertools, sys
import numpy as np
import tensorflow as tf
from models.convolution import convolve

dtype, tolerance = sys.argv[1], float(sys.argv[2])
draw = np.random.default_rng(7)
shapes = ((1, 4, 2), (2, 7, 2), (2, 15, 3), (4, 112, 2))
for channels, (images, side, stride) in itertools.product((1, 8, 12, 15, 16, 20), shapes):
    x = tf.cast(draw.uniform(-1, 1, (images, side, side, channels)), dtype)
    kernel = tf.constant(draw.uniform(-1, 1, (1, 1, channels, 4 * channels)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch([x, kernel])
        y = convolve(x, kernel, stride)
        total = tf.reduce_sum(tf.cast(y, tf.float32))
    dx, dkernel = tape.gradient(total, [x, kernel])
    # Another way: the pixels that a kernel of one pixel sees, times its matrix.
    pixels = tf.cast(x, tf.float32).numpy()[:, ::stride, ::stride]
    matrix = tf.cast(tf.cast(kernel, dtype), tf.float32).numpy()[0, 0]
    expected_dx = np.zeros(x.shape, np.float32)
    expected_dx[:, ::stride, ::stride] = matrix.sum(axis=1)
    expected_dkernel = np.repeat(pixels.sum(axis=(0, 1, 2))[:, None], 4 * channels, axis=1)
    found = (y, dx, dkernel[0, 0])
    for ours, expected in zip(found, (pixels @ matrix, expected_dx, expected_dkernel)):
        ours = tf.cast(ours, tf.float32).numpy()
        assert np.abs(ours - expected).max() <= tolerance * np.abs(expected).max(), channels
print("as expected")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_strided_convolution_of_few_channels(dtype, tolerance):
    # glibc ends the process when it finds its heap overwritten.
    done = subprocess.run(
        [sys.executable, "-c", STRIDED, dtype, str(tolerance)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("as expected\n")
