"""What is run again in the backward pass, from what, and what gradients come out."""

import numpy as np
import pytest
import tensorflow as tf

from models import gradient_checkpointing
from models.batch_norm import Moments


def gradients(run, x: tf.Tensor, save_dtype: tf.DType, moments: dict) -> tf.Tensor:
    @tf.function
    def graph(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = gradient_checkpointing.checkpoint(run, x, save_dtype, moments)
        return tape.gradient(y, x)

    return graph(x)


@pytest.mark.parametrize(
    ("save_dtype", "kept"),
    [
        (tf.float32, [1.001, 1e5, -3.0]),
        (tf.bfloat16, [1.0, 99840.0, -3.0]),  # 8 bits of mantissa
        (tf.float16, [1.0009765625, 65504.0, -3.0]),  # 11 bits, and an end
    ],
)
def test_the_gradient_is_that_of_the_kept_input(save_dtype, kept):
    found = gradients(lambda x, moments: x * x, tf.constant([1.001, 1e5, -3.0]), save_dtype, {})
    np.testing.assert_array_equal(found, 2 * np.array(kept, np.float32))


def test_the_second_run_finds_the_moments_of_the_first():
    seen = []

    def run(x: tf.Tensor, moments: dict) -> tf.Tensor:
        seen.append(set(moments))
        found = moments.setdefault("norm", Moments(tf.reduce_mean(x), tf.reduce_max(x)))
        return x * found.variance

    moments = {"an earlier norm": Moments(tf.constant(0.0), tf.constant(1.0))}
    found = gradients(run, tf.constant([1.001, 2.001]), tf.bfloat16, moments)
    assert seen == [set(), {"norm"}]
    assert moments.keys() == {"an earlier norm", "norm"}
    # The exact maximum, not the one of the rounded input, and as a constant.
    np.testing.assert_array_equal(found, np.full(2, np.float32(2.001)))


def test_variables_get_their_gradients():
    weight = tf.Variable([2.0, 3.0])

    @tf.function
    def graph(x: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = gradient_checkpointing.checkpoint(lambda x, moments: x * weight, x, tf.float32, {})
            total = tf.reduce_sum(y * [10.0, 100.0])
        return tape.gradient(total, [x, weight])

    dx, dweight = graph(tf.constant([5.0, 7.0]))
    np.testing.assert_array_equal(dx, [20.0, 300.0])
    np.testing.assert_array_equal(dweight, [50.0, 700.0])
