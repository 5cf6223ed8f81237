"""Gradient checkpointing: runs a block again in the backward pass to save memory.

Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost". Unlike `tf.recompute_grad`
this may keep the input in fewer bits, and hands the moments of batch norm on to the second run,
which takes them on CPUs; the fused operation of GPUs and synchronized batch norm find them again.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from models.batch_norm import Moments

# Batch norm name -> what it was normalized by. A batch norm enters its own; one that finds its own
# there, from a first run, need not compute them again.
BatchMoments = dict[str, Moments]
Run = Callable[[tf.Tensor, BatchMoments], tf.Tensor]


def checkpoint(run: Run, x: tf.Tensor, save_dtype: tf.DType, moments: BatchMoments) -> tf.Tensor:
    """`run(x, own)`, of which a graph keeps for the backward pass x alone, as type `save_dtype`.

    There `run` is called again with what was kept, cast back to x's type, and with the moments that
    the first call entered in `own`; these are added to `moments`. Variables that it reads get
    gradients.
    """

    @tf.custom_gradient
    def first_run(x: tf.Tensor) -> tuple:
        own: BatchMoments = {}
        y = run(x, own)
        # What is beyond float16's range would be infinite, and its gradients not a number.
        kept = (tf.saturate_cast if save_dtype == tf.float16 else tf.cast)(x, save_dtype)

        def gradient(dy: tf.Tensor, *_: tf.Tensor, variables: Sequence[tf.Variable] = ()) -> tuple:
            again = tf.cast(_not_before(dy, kept), x.dtype)
            with tf.GradientTape() as tape:
                tape.watch(again)
                y = run(again, dict(own))
            dx, *dvariables = tape.gradient(y, [again, *variables], dy)
            return dx, dvariables

        return (y, own), gradient

    y, own = first_run(x)
    moments |= own
    return y


def _not_before(dy: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """x, but not before dy is there: else all would be computed, and kept, early."""
    if tf.config.optimizer.get_jit():  # XLA knows no order but that of the data
        first = tf.reshape(dy, [-1])[0]
        # Always 0, which no optimizer knows: as in tf.recompute_grad. Not run on a GPU here.
        zero = tf.where(tf.cast(first, tf.bool) == tf.cast(first, tf.bool), 0.0, float("nan"))
        return x + tf.cast(zero, x.dtype)
    # An operation of its own: to depend on a call of a function is to depend on its side effects.
    with tf.control_dependencies([tf.identity(dy)]):
        return tf.identity(x)
