"""Batch norm and ReLU, and their gradients, against NumPy in float64."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from models import batch_norm

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


@pytest.mark.parametrize("in_parts", [True, False])
@pytest.mark.parametrize("again", [False, True])
def test_by_batch_is_numpys(monkeypatch, values, in_parts, again):
    """Also where the moments are known from a first run."""
    monkeypatch.setattr(batch_norm, "_is_decomposed", lambda *_: in_parts)
    rows = values["x"].astype(np.float64).reshape(-1, CHANNELS)
    mean, variance = rows.mean(0), rows.var(0)
    moments = [tf.constant(m, tf.float32) for m in (mean, rows.var(0, ddof=1))]
    known = batch_norm.Moments(*moments) if again else None
    function = functools.partial(batch_norm.batch_stats, known=known)
    found, gradients = run(function, values, ["x", "gamma", "beta"])
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


def test_by_moments_is_numpys(values):
    names = ["x", "gamma", "beta", "mean", "variance"]
    found, gradients = run(batch_norm.running_stats, values, names)
    normal, y, dy = exact(values, values["mean"], values["variance"])
    np.testing.assert_allclose(found, y, atol=1e-4)
    deviation = np.sqrt(values["variance"] + EPSILON)
    axes = (0, 1, 2)
    np.testing.assert_allclose(gradients["x"], dy * values["gamma"] / deviation, atol=1e-5)
    np.testing.assert_allclose(gradients["gamma"], (dy * normal).sum(axes), atol=1e-3)
    np.testing.assert_allclose(gradients["beta"], dy.sum(axes), atol=1e-4)


def test_sixteen_bits_take_the_fused_operation_and_agree(values):
    for name in ("batch_stats", "running_stats"):
        function = getattr(batch_norm, name)
        names = ["gamma", "beta"] + ["mean", "variance"] * (name == "running_stats")
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


def test_moments_of_all_batches_keep_a_small_variance_beside_a_large_mean(values):
    """In float32 the mean square, 90,000.01, less the squared mean would be 0 or 0.0078."""
    halves = np.split(values["dy"].astype(np.float64) * 0.1 + 300, 2)
    rows = [half.astype(np.float32).astype(np.float64).reshape(-1, CHANNELS) for half in halves]
    others = [rows[1].mean(0), np.square(rows[1]).mean(0)]
    found = batch_norm.synchronized_stats(
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
    found = batch_norm.batch_stats(x, tf.ones(CHANNELS), tf.fill([CHANNELS], 2.0), EPSILON)
    np.testing.assert_array_equal(found.y, np.full(x.shape, 2.0))
    np.testing.assert_array_equal(found.moments.variance, np.zeros(CHANNELS))
