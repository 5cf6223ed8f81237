"""Adapts a network to other data, single label or multi-label; see example/finetune.sh.

    python finetune.py --pretrain_ckpt=CHECKPOINT --data_dir=RECORDS --class_num=1000

Shares its run with train.py; as released, it restores all but the logits, decays batch norm by a
tenth, and crops down to 5 % of an image.
"""

from collections.abc import Callable

import flags
import train
from data.common import script
from models.architecture import matches
from models.losses import LOSSES

FLAGS = flags.FLAGS
# What `FixBlock2` of the released code leaves to train.
FIX_BLOCK_2 = ("stages_2_*", "stages_3_*", "global_pool/*", "logits/*")


def main() -> int:
    if not LOSSES[FLAGS.loss].single_label and not FLAGS["count_classes"].present:
        FLAGS.count_classes = True  # rare and empty classes are what to know of one's own labels
    task = train.Classification(
        trains(FIX_BLOCK_2 if FLAGS.FixBlock2 else FLAGS.trainable), skip=("logits/*",)
    )
    return train.fit(task, train.run_options(FLAGS.bn_decay_fraction))


def trains(patterns: list[str] | tuple[str, ...]) -> Callable[[str], bool]:
    """Whether a variable's checkpoint name matches a pattern; no pattern: all do."""
    return lambda name: not patterns or matches(name, patterns)


if __name__ == "__main__":
    script.run(main)
