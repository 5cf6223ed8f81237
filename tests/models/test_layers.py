"""Batch norm with ReLU, convolution and recomputation, and their gradients.

The padding of convolutions is tested in test_resnet.py.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from models import layers

EPSILON = 1e-3
CHANNELS = 8


@pytest.fixture
def values() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(3)
    return {
        # Far from zero: a variance as the mean square less the squared mean would lose digits.
        "x": draw.normal(30, 2, (4, 5, 6, CHANNELS)).astype(np.float32),
        "dy": draw.normal(0, 1, (4, 5, 6, CHANNELS)).astype(np.float32),
        "gamma": draw.uniform(0.5, 1.5, CHANNELS).astype(np.float32),
        "beta": draw.normal(0, 1, CHANNELS).astype(np.float32),
        "mean": draw.normal(30, 1, CHANNELS).astype(np.float32),
        "variance": draw.uniform(1, 4, CHANNELS).astype(np.float32),
    }


def run(function, values, names):
    """Outputs of `function` in a graph, and the gradients of sum(y * dy) to `names`."""
    given = {name: tf.constant(values[name]) for name in names}

    @tf.function
    def graph():
        with tf.GradientTape() as tape:
            tape.watch(given)
            outputs = function(**given, epsilon=EPSILON)
            y = outputs if isinstance(outputs, tf.Tensor) else outputs.y
            total = tf.reduce_sum(y * tf.cast(values["dy"], y.dtype))
        return outputs, tape.gradient(total, given)

    return graph()


def exact(values, mean, variance):
    """y, and dy where the ReLU lets it through, in float64."""
    v = {name: value.astype(np.float64) for name, value in values.items()}
    normal = (v["x"] - mean) / np.sqrt(variance + EPSILON)
    y = normal * v["gamma"] + v["beta"]
    assert np.abs(y).min() > 1e-4  # no value so near the ReLU's corner that rounding moves it over
    return normal, np.maximum(y, 0), np.where(y > 0, v["dy"], 0)


def test_batch_norm_by_the_batch_is_numpys(values):
    rows = values["x"].astype(np.float64).reshape(-1, CHANNELS)
    mean, variance = rows.mean(0), rows.var(0)
    found, gradients = run(layers.normalize_by_batch, values, ["x", "gamma", "beta"])
    normal, y, dy = exact(values, mean, variance)
    np.testing.assert_allclose(found.y, y, atol=1e-4)
    np.testing.assert_allclose(found.moments.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(found.moments.variance, rows.var(0, ddof=1), rtol=1e-5)
    axes = (0, 1, 2)
    dnormal = dy * values["gamma"]
    dx = dnormal - dnormal.mean(axes) - normal * (dnormal * normal).mean(axes)
    np.testing.assert_allclose(gradients["x"], dx / np.sqrt(variance + EPSILON), atol=1e-4)
    np.testing.assert_allclose(gradients["gamma"], (dy * normal).sum(axes), atol=1e-3)
    np.testing.assert_allclose(gradients["beta"], dy.sum(axes), atol=1e-4)


def test_batch_norm_by_running_statistics_is_numpys(values):
    names = ["x", "gamma", "beta", "mean", "variance"]
    found, gradients = run(layers.normalize_by_running_stats, values, names)
    normal, y, dy = exact(values, values["mean"], values["variance"])
    np.testing.assert_allclose(found, y, atol=1e-4)
    deviation = np.sqrt(values["variance"] + EPSILON)
    axes = (0, 1, 2)
    np.testing.assert_allclose(gradients["x"], dy * values["gamma"] / deviation, atol=1e-5)
    np.testing.assert_allclose(gradients["gamma"], (dy * normal).sum(axes), atol=1e-3)
    np.testing.assert_allclose(gradients["beta"], dy.sum(axes), atol=1e-4)


def test_batch_norm_in_16_bits_is_near_float32(values):
    for name in ("normalize_by_batch", "normalize_by_running_stats"):
        function = getattr(layers, name)
        names = ["gamma", "beta"] + ["mean", "variance"] * (name == "normalize_by_running_stats")
        given = {n: tf.constant(values[n]) for n in names}
        x = tf.constant(values["x"] - 30)
        given |= {"mean": given["mean"] - 30} if "mean" in given else {}
        near = function(tf.cast(x, tf.bfloat16), **given, epsilon=EPSILON)
        for found, full in zip(
            tf.nest.flatten(near),
            tf.nest.flatten(function(x, **given, epsilon=EPSILON)),
            strict=True,
        ):
            np.testing.assert_allclose(tf.cast(found, tf.float32), full, atol=0.03, rtol=0.02)


def test_moments_of_all_batches_keep_a_small_variance_with_a_large_mean(values):
    """In float32 the mean square, 90,000.01, less the squared mean would be 0 or 0.0078."""
    halves = np.split(values["dy"].astype(np.float64) * 0.1 + 300, 2)
    rows = [half.astype(np.float32).astype(np.float64).reshape(-1, CHANNELS) for half in halves]
    others = [rows[1].mean(0), np.square(rows[1]).mean(0)]
    found = layers.normalize_by_all_batches(
        tf.constant(halves[0], tf.float32),
        tf.ones(CHANNELS),
        tf.zeros(CHANNELS),
        EPSILON,
        lambda own: [(a + b) / 2 for a, b in zip(own, others, strict=True)],
        workers=2,
    )
    every = np.concatenate(rows)
    np.testing.assert_allclose(found.moments.variance, every.var(0, ddof=1), rtol=1e-3)
    normal = (rows[0] - every.mean(0)) / np.sqrt(every.var(0) + EPSILON)
    expected = np.maximum(normal, 0).reshape(halves[0].shape)
    np.testing.assert_allclose(found.y, expected, atol=2e-3)


def test_one_value_a_channel_has_no_variance():
    x = tf.fill([1, 1, 1, CHANNELS], 5.0)
    found = layers.normalize_by_batch(x, tf.ones(CHANNELS), tf.fill([CHANNELS], 2.0), EPSILON)
    np.testing.assert_array_equal(found.y, np.full(x.shape, 2.0))
    np.testing.assert_array_equal(found.moments.variance, np.zeros(CHANNELS))


def values_and_gradients(dtype: str, stride: int, size: int) -> list[np.ndarray]:
    draw = np.random.default_rng(5)
    x = tf.cast(draw.uniform(-1, 1, (2, 9, 9, 8)).astype(np.float32), dtype)
    kernel = tf.Variable(draw.uniform(-1, 1, (size, size, 8, 8)).astype(np.float32))

    @tf.function
    def run():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layers.convolve(x, kernel, stride)
            total = tf.reduce_sum(tf.square(tf.cast(y, tf.float32)))
        return [y, *tape.gradient(total, [x, kernel])]

    y, dx, dkernel = run()
    assert (y.dtype, dx.dtype, dkernel.dtype) == (x.dtype, x.dtype, tf.float32)
    return [tf.cast(tensor, tf.float32).numpy() for tensor in (y, dx, dkernel)]


@pytest.mark.parametrize(("stride", "size"), [(1, 1), (2, 1), (1, 3), (2, 3), (2, 7)])
def test_convolution_in_bfloat16_is_near_float32(stride, size):
    exact = values_and_gradients("float32", stride, size)
    for near, full in zip(values_and_gradients("bfloat16", stride, size), exact, strict=True):
        assert 0 < np.abs(near - full).max() < 0.02 * np.abs(full).max()


# In a process of its own: what is tested for overruns memory, which may show much later or never.
STRIDED = """
import itertools, sys
import numpy as np
import tensorflow as tf
from models.layers import convolve

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


def test_recomputation_runs_twice_and_gives_the_same_gradients():
    weight, runs = tf.Variable([2.0, 3.0]), []

    @tf.function
    def graph(x: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        def scaled(x: tf.Tensor) -> tuple[tf.Tensor, dict]:
            runs.append(x)
            return x * x * weight, {"norm": layers.Moments(tf.reduce_mean(x), tf.reduce_max(x))}

        with tf.GradientTape() as tape:
            tape.watch(x)
            y, moments = layers.recompute(scaled, x)
            total = tf.reduce_sum(y * [10.0, 100.0])
        return moments["norm"].variance, tape.gradient(total, [x, weight])

    largest, (dx, dweight) = graph(tf.constant([5.0, 7.0]))
    assert len(runs) == 2 and largest == 7
    np.testing.assert_array_equal(dx, [2 * 5 * 2 * 10.0, 2 * 7 * 3 * 100.0])
    np.testing.assert_array_equal(dweight, [25 * 10.0, 49 * 100.0])
