"""Adapts a network to other data, single label or multi-label; see example/finetune.sh.

Shares its run with train.py; as released, it restores all but the logits, decays batch norm by a
tenth, and crops down to 5 % of an image.
"""

import fnmatch
from collections.abc import Callable

import flags
import train
from data.common import script
from models.distributed.base import Distributed
from models.metrics.evaluators import MultiLabelEvaluator, SingleLabelEvaluator
from models.training.objectives import (
    AsymmetricLossObjective,
    Objective,
    SoftmaxObjective,
    WeightedBCEObjective,
)

FLAGS = flags.FLAGS
# What `FixBlock2` of the released code leaves to train.
FIX_BLOCK_2 = ("stages_2_*", "stages_3_*", "global_pool/*", "logits/*")


def main() -> int:
    if FLAGS.loss != "softmax" and not FLAGS["count_classes"].present:
        FLAGS.count_classes = True  # rare and empty classes are what to know of one's own labels
    return train.fit(
        make_objective,
        make_evaluator,
        trains(FIX_BLOCK_2 if FLAGS.FixBlock2 else FLAGS.trainable),
        skip=("logits/*",),
        bn_decay_fraction=FLAGS.bn_decay_fraction,
    )


def make_evaluator(job: Distributed) -> SingleLabelEvaluator | MultiLabelEvaluator:
    """The metrics for the labels of --loss."""
    if FLAGS.loss == "softmax":
        return SingleLabelEvaluator(FLAGS.class_num, job)
    return train.make_evaluator(job)


def make_objective() -> Objective:
    """The objective of --loss."""
    if FLAGS.loss == "softmax":
        return SoftmaxObjective(FLAGS.label_smoothing)
    if FLAGS.loss == "bce":
        return WeightedBCEObjective(FLAGS.positive_weight)
    if FLAGS.loss == "asymmetric":
        return AsymmetricLossObjective(
            FLAGS.gamma_negative, FLAGS.gamma_positive, FLAGS.probability_shift
        )
    return train.make_objective()


def trains(patterns: list[str] | tuple[str, ...]) -> Callable[[str], bool]:
    """Whether a variable's checkpoint name matches a pattern; no pattern: all do."""
    return lambda name: not patterns or any(fnmatch.fnmatchcase(name, p) for p in patterns)


if __name__ == "__main__":
    script.run(main)
