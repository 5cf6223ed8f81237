"""Seconds from the command to the first result: importing, the first training step, a prediction.

    python benchmarks/startup.py [--resnet_size 101] [--rounds 5] [--json FILE]

They alternate. `imports` is the time as a multiple of importing TensorFlow, medians over rounds.
Goal: at most 15 s from the command to the first training step, with files in the page cache.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import harness
from benchmarks.photographs import jpegs

IMPORT = "import TensorFlow"


def seconds_until(command: list[str], folder: Path, wanted: str) -> float:
    """Seconds from a command's start until it prints `wanted`; then stops the command.

    Raises RuntimeError if it ends without printing it.
    """
    start = time.perf_counter()
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout:
            if wanted in line:
                seconds = time.perf_counter() - start
                process.kill()
                return seconds
    raise RuntimeError(f"{' '.join(command)} ended without {wanted!r}")


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each kind of start."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "image.jpg").write_bytes(jpegs(1)[0])
        train = "train.py", "--synthetic", f"--resnet_size={args.resnet_size}", "--batch_size=2"
        train = *train, "--class_num=1000", "--max_iter=1", "--log_dir=log"
        harness.run(harness.from_root(*train, "--model_dir=model"), cwd=folder)
        predict = "image_classification.py", "image.jpg", "--model_dir=model"
        starts = {
            IMPORT: ([sys.executable, "-c", "import tensorflow; print('done')"], "done"),
            "train.py --help": (harness.from_root("train.py", "--help"), "--"),
            "first training step": (harness.from_root(*train, "--model_dir=new"), "step 1/1"),
            "first prediction": (
                harness.from_root(*predict, "--result=labels.txt"),
                "of them unreadable",
            ),
        }

        def start(command: list[str], wanted: str) -> float:
            harness.run(["rm", "-rf", folder / "new", folder / "labels.txt"])
            return seconds_until(command, folder, wanted)

        jobs = {what: partial(start, *command) for what, command in starts.items()}
        seconds = harness.in_turn(jobs, args.rounds)
    return [
        {
            "what": what,
            "seconds": statistics.median(taken),
            "imports": harness.median_ratio(taken, seconds[IMPORT]),
        }
        for what, taken in seconds.items()
    ]


if __name__ == "__main__":
    harness.main(measure, __doc__, resnet_size=(101, 14), rounds=(5, 1))
