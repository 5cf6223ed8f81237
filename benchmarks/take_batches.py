"""Runs train.py of the tree in the working folder with a loop that only takes batches.

    cd TREE; python .../benchmarks/take_batches.py --data_dir=... [other flags of train.py]

Prints `batches taken` after every ten. Part of benchmarks/compare.py; depends only on the tree's
train.py flags and on the position of the batches among the loop's arguments.
"""

import os
import runpy
import sys
from collections.abc import Iterator
from typing import Any

sys.path[0] = os.getcwd()
sys.argv[0] = "train.py"  # by which the tree selects its flags

from data.common import start_tensorflow  # noqa: F401 - before TensorFlow
from models.training import loop

TOGETHER = 10


def take(trainer: Any, batches: Iterator[Any], *others: Any, **named: Any) -> int:
    """Replaces models.training.loop.train."""
    for number, _ in enumerate(batches, 1):
        if number % TOGETHER == 0:
            print("batches taken", flush=True)
    return 0


loop.train = take
runpy.run_path("train.py", run_name="__main__")
