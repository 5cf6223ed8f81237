"""Finetunes a network on other data, single-label or multi-label; see example/finetune.sh.

    python finetune.py --pretrain_ckpt=CHECKPOINT --data_dir=RECORDS --class_num=1000

Runs like train.py. As released, it restores all layers but the logits, applies a tenth of the
weight decay to batch norm, and crops as little as 5 % of an image.
"""

from collections.abc import Callable

import flags
import train
from data.common import script
from models.architecture import matches
from models.losses import LOSSES

FLAGS = flags.FLAGS
# The variables that `FixBlock2` of the released code trains.
FIX_BLOCK_2 = ("stages_2_*", "stages_3_*", "global_pool/*", "logits/*")


def main() -> int:
    if not LOSSES[FLAGS.loss].single_label and not FLAGS["count_classes"].present:
        FLAGS.count_classes = True  # shows rare and empty classes in the user's own labels
    task = train.Classification(
        trains(FIX_BLOCK_2 if FLAGS.FixBlock2 else FLAGS.trainable), skip=("logits/*",)
    )
    return train.fit(task, train.run_options(FLAGS.bn_decay_fraction))


def trains(patterns: list[str] | tuple[str, ...]) -> Callable[[str], bool]:
    """A test whether a checkpoint name matches any pattern; without patterns, all do."""
    return lambda name: not patterns or matches(name, patterns)


if __name__ == "__main__":
    script.run(main)
