"""The multi-label loss, forward and backward, compared with plain sigmoid cross-entropy.

    python benchmarks/loss.py [--batch 32 512] [--class_num 11166] [--rounds 21] [--json FILE]

Goals: at most 1.3 x the time of tf.nn.sigmoid_cross_entropy_with_logits, and at most 3 tensors of
shape [batch, classes] at the peak (including logits and their gradient).
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.common import start_tensorflow  # noqa: F401, I001 - before TensorFlow

import numpy as np
import tensorflow as tf

from benchmarks import harness
from data.input.pipeline import Batch
from models.distributed.base import SingleProcess
from models.losses import ClassWeightOptions, sparse_from_dense
from models.training.objectives import ClassWeights, Objective

LABELS_PER_IMAGE = 9  # ML-Images has 8.72 on average
PLAIN = "tf.nn.sigmoid_cross_entropy_with_logits"


def made_up(batch: int, class_num: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Logits [B, C] and padded-sparse labels [B, 9]."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(batch, class_num)).astype(np.float32)
    index = np.stack([rng.choice(class_num, LABELS_PER_IMAGE, False) for _ in range(batch)])
    return tf.constant(logits), tf.constant(index, tf.int32), tf.ones(index.shape)


def with_gradient(loss: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], Any]:
    """A graph that computes the loss and its gradient with respect to the logits."""

    @tf.function
    def run(logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(logits)
        return value, tape.gradient(value, logits)

    return run


def contenders(batch: int, class_num: int) -> dict[str, Callable[[], Any]]:
    """Name -> a forward and backward pass, or only the sigmoid for the limit."""
    logits, index, value = made_up(batch, class_num)
    rows = tf.repeat(tf.range(batch), LABELS_PER_IMAGE)
    where = tf.stack([rows, tf.reshape(index, [-1])], axis=1)
    dense = tf.tensor_scatter_nd_update(
        tf.zeros([batch, class_num]), where, tf.reshape(value, [-1])
    )
    class_weights = ClassWeights(class_num, ClassWeightOptions(neg_select=0.1), 0)
    objective = Objective("multi_label", class_weights, positive_weight=12.0)
    step = tf.constant(0, tf.int64)

    def ours(logits: tf.Tensor, index: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
        batch = Batch(logits, index, value, index, value)
        weights = objective.begin_step(batch, step, SingleProcess())
        return objective.loss_of(logits, index, value, weights)

    def plain(logits: tf.Tensor) -> tf.Tensor:
        loss = tf.nn.sigmoid_cross_entropy_with_logits(dense, logits)
        return tf.reduce_mean(tf.reduce_sum(loss, axis=1))

    graphs = {
        "limit: sigmoid(x) alone": tf.function(tf.sigmoid),
        PLAIN: with_gradient(plain),
        "ours, sparse labels": with_gradient(lambda x: ours(x, index, value)),
        "ours, dense labels": with_gradient(lambda x: ours(x, *sparse_from_dense(dense))),
    }
    return {name: lambda graph=graph: graph(logits) for name, graph in graphs.items()}


def measure_batch(batch: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each contender, times in ms, memory in tensors of [batch, class_num]."""
    jobs = contenders(batch, args.class_num)
    timed = {name: lambda job=job: harness.timed(job).seconds for name, job in jobs.items()}
    harness.in_turn(timed, 2)  # traces
    seconds = harness.in_turn(timed, args.rounds)
    tensor_bytes = 4 * batch * args.class_num
    return [
        {
            "what": name,
            "batch": batch,
            "classes": args.class_num,
            "ms": 1e3 * statistics.median(seconds[name]),
            "x plain": harness.median_ratio(seconds[name], seconds[PLAIN]),
            "tensors at the peak": 1 + harness.peak_growth_bytes(job) / tensor_bytes,
        }
        for name, job in jobs.items()
    ]


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    return [row for batch in args.batch for row in measure_batch(batch, args)]


if __name__ == "__main__":
    harness.main(
        *(measure, __doc__),
        batch=([32, 512], [8]),
        class_num=(11166, 1000),
        rounds=(21, 1),
    )
