"""Cost of the exact multi-label metrics against the number of images, on made-up scores.

    python benchmarks/metrics.py [--images 1000 10000 88739] [--class_num 11166] [--json FILE]

Bars at 88,739 x 11,166 on 2 cores: at most 15 minutes and 2 GiB of memory. Time is that of the
metrics alone, not of making scores up; memory is the whole process's peak, TensorFlow included.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])


import numpy as np

from benchmarks.measuring import memory_bytes, report
from models.metrics.evaluators import MultiLabelEvaluator, MultiLabelOptions

BATCH = 512
LABELS_PER_IMAGE = 9
UNKNOWN_PER_IMAGE = 3


def made_up(images: int, class_num: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Batches of scores and labels: few frequent classes and many rare, positives score higher."""
    rng = np.random.default_rng(0)
    share = 1.0 / np.arange(1, class_num + 1)
    listed = LABELS_PER_IMAGE + UNKNOWN_PER_IMAGE
    value = np.ones((BATCH, listed), np.float32)
    value[:, LABELS_PER_IMAGE:] = -1
    for start in range(0, images, BATCH):
        size = min(BATCH, images - start)
        scores = rng.random((size, class_num), np.float32) ** 4
        index = rng.choice(class_num, (size, listed), p=share / share.sum())
        rows = np.arange(size)[:, None]
        scores[rows, index] = rng.random((size, listed), np.float32)
        yield scores, index, value[:size]


def measure(images: int, class_num: int) -> dict[str, float]:
    """One row of the table; run in a process of its own, whose peak memory it gives."""
    parents = np.arange(class_num) // 2 - 1  # a binary tree, as deep as the released hierarchy
    evaluator = MultiLabelEvaluator(class_num, options=MultiLabelOptions(parents=parents))
    update_seconds = 0.0
    for batch in made_up(images, class_num):
        start = time.perf_counter()
        evaluator.update(*batch)
        update_seconds += time.perf_counter() - start
    start = time.perf_counter()
    summary = evaluator.result()
    result_seconds = time.perf_counter() - start
    seconds = update_seconds + result_seconds
    return {
        "images": images,
        "classes": class_num,
        "batches s": update_seconds,
        "result s": result_seconds,
        "ms an image": seconds / images * 1e3,
        "peak memory MiB": memory_bytes("VmHWM") / 2**20,
        "disk MiB": images * class_num * 4 / 2**20,
        "mAP": summary["map_macro"],
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 10_000, 88_739])
    parser.add_argument("--class_num", type=int, default=11166)
    parser.add_argument("--json", help="file for the rows as JSON")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(measure(args.images[0], args.class_num)))
        return 0
    command = [sys.executable, __file__, "--one", f"--class_num={args.class_num}", "--images"]
    rows = []
    for images in args.images:
        run = subprocess.run([*command, str(images)], check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(run.stdout))
    report("Exact multi-label metrics", rows, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
