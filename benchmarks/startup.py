"""Times from the command to the first result: importing, the first training step, a prediction.

    python benchmarks/startup.py [--resnet_size 101] [--repeats 3] [--json FILE]

They take turns; `imports` is how many imports of TensorFlow they take, medians over the rounds.
Bar: at most 15 s from the command to the first training step, with files in the page cache.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from PIL import Image

from benchmarks import contenders
from benchmarks.measuring import report

ROOT = Path(__file__).resolve().parents[1]
PREDICTED = "of them unreadable"


def seconds_until(command: list[str], folder: Path, wanted: str) -> float:
    """Seconds from the start of a command until it prints `wanted`; it then runs to its end.

    Raises:
      RuntimeError: it ended without.
    """
    start, seen = time.perf_counter(), None
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:
        if seen is None and wanted in line:
            seen = time.perf_counter() - start
    process.wait()  # absl ends --help with 1
    if seen is None:
        raise RuntimeError(f"{' '.join(command)} ended without {wanted!r}")
    return seen


def measure(resnet_size: int, repeats: int) -> list[dict[str, Any]]:
    """A row a kind of start."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
        Image.fromarray(image).save(folder / "image.jpg")
        train = [str(ROOT / "train.py"), "--synthetic", f"--resnet_size={resnet_size}"]
        train += ["--batch_size=2", "--class_num=1000", "--max_iter=1", f"--log_dir={folder}/log"]
        predict = [str(ROOT / "image_classification.py"), "image.jpg"]
        predict += [f"--model_dir={folder}/kept", "--result=labels.txt"]
        seconds_until([*train, f"--model_dir={folder}/kept"], folder, "step 1/1")
        starts = {
            "import TensorFlow": (["-c", "import tensorflow; print('done')"], "done"),
            "train.py --help (everything imported)": ([str(ROOT / "train.py"), "--help"], "flags:"),
            "first training step": (train, "step 1/1"),
            "first prediction": (predict, PREDICTED),
        }
        seconds: dict[str, list[float]] = {what: [] for what in starts}
        for repeat in range(repeats):
            for what, (command, wanted) in starts.items():
                own = [f"--model_dir={folder}/{repeat}"] if command is train else []
                seconds[what].append(seconds_until([*command, *own], folder, wanted))
    imports = seconds["import TensorFlow"]
    return [
        {
            "what": what,
            "seconds": statistics.median(taken),
            "imports": contenders.median_ratio(taken, imports),
        }
        for what, taken in seconds.items()
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--resnet_size", type=int, default=101)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", help="file for the rows as JSON")
    args = parser.parse_args(argv)
    rows = measure(args.resnet_size, args.repeats)
    report(f"Seconds from the command, ResNet-{args.resnet_size}", rows, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
