"""Times the multi-label loss, forward and backward, next to plain sigmoid cross-entropy.

    python benchmarks/loss.py [--batch 32 512] [--class_num 11166] [--json FILE]

Bars: at most 1.3 x the time of tf.nn.sigmoid_cross_entropy_with_logits, and at most 3 tensors of
shape [batch, classes] at the peak (logits and their gradient among them).
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import tensorflow as tf

from benchmarks.measuring import median_seconds, peak_growth_bytes, report
from models.distributed.base import SingleProcess
from models.losses import ClassWeightOptions, sparse_from_dense
from models.training.objectives import ClassWeights, Objective

LABELS_PER_IMAGE = 9  # ML-Images has 8.72 on average


def made_up(batch: int, class_num: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Logits [B, C] and padded-sparse labels [B, 9]."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(batch, class_num)).astype(np.float32)
    index = np.stack([rng.choice(class_num, LABELS_PER_IMAGE, False) for _ in range(batch)])
    return tf.constant(logits), tf.constant(index, tf.int32), tf.ones(index.shape)


def with_gradient(loss: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], Any]:
    """A graph of the loss and its gradient with respect to logits."""

    @tf.function
    def run(logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(logits)
        return value, tape.gradient(value, logits)

    return run


def contenders(batch: int, class_num: int) -> dict[str, Callable[[tf.Tensor], Any]]:
    """Name -> function of logits; the first is the limit, the second the peer."""
    logits, index, value = made_up(batch, class_num)
    del logits
    rows = tf.repeat(tf.range(batch), LABELS_PER_IMAGE)
    where = tf.stack([rows, tf.reshape(index, [-1])], axis=1)
    dense = tf.tensor_scatter_nd_update(
        tf.zeros([batch, class_num]), where, tf.reshape(value, [-1])
    )
    class_weights = ClassWeights(class_num, ClassWeightOptions(neg_select=0.1), 0)
    objective = Objective("multi_label", class_weights, positive_weight=12.0)
    step = tf.constant(0, tf.int64)

    def ours(logits: tf.Tensor, index: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
        weights = objective.begin_step(index, value, step, SingleProcess())
        return objective.loss(logits, index, value, weights)

    def plain(logits: tf.Tensor) -> tf.Tensor:
        loss = tf.nn.sigmoid_cross_entropy_with_logits(dense, logits)
        return tf.reduce_mean(tf.reduce_sum(loss, axis=1))

    return {
        "limit: sigmoid(x) alone": tf.function(tf.sigmoid),
        "tf.nn.sigmoid_cross_entropy_with_logits": with_gradient(plain),
        "ours, sparse labels": with_gradient(lambda x: ours(x, index, value)),
        "ours, dense labels": with_gradient(lambda x: ours(x, *sparse_from_dense(dense))),
    }


def measure(batch: int, class_num: int, repeats: int) -> list[dict[str, Any]]:
    """A row for each contender, times in ms, memory in tensors of [batch, class_num]."""
    logits = made_up(batch, class_num)[0]
    tensor_bytes, rows = batch * class_num * 4, []
    for name, run in contenders(batch, class_num).items():
        seconds = median_seconds(lambda run=run: run(logits), repeats)
        grown = peak_growth_bytes(lambda run=run: run(logits))
        rows.append(
            {
                "batch": batch,
                "classes": class_num,
                "what": name,
                "ms": seconds * 1e3,
                "tensors at the peak": 1 + grown / tensor_bytes,
            }
        )
    peer = rows[1]["ms"]
    return [{**row, "x plain": row["ms"] / peer} for row in rows]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 512])
    parser.add_argument("--class_num", type=int, default=11166)
    parser.add_argument("--repeats", type=int, default=21, help="runs of which the median counts")
    parser.add_argument("--json", help="file for the rows as JSON")
    args = parser.parse_args(argv)
    rows = [row for batch in args.batch for row in measure(batch, args.class_num, args.repeats)]
    report("Multi-label loss, forward and backward", rows, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
