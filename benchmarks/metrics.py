"""Cost of the exact multi-label metrics by number of images, on synthetic scores.

    python benchmarks/metrics.py [--images 1000 10000 88739] [--class_num 11166] [--json FILE]

Goals at 88,739 x 11,166 on 2 cores: at most 15 minutes and 2 GiB of memory. Time is for the metrics
only, not for making the scores; memory is the process's peak, including TensorFlow.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from benchmarks import harness

BATCH = 512
LABELS_PER_IMAGE = 9
UNKNOWN_PER_IMAGE = 3


def made_up(images: int, class_num: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Batches of scores and labels; few classes are frequent, and positives score higher."""
    rng = np.random.default_rng(0)
    frequency = 1.0 / np.arange(1, class_num + 1)
    listed = LABELS_PER_IMAGE + UNKNOWN_PER_IMAGE
    value = np.ones((BATCH, listed), np.float32)
    value[:, LABELS_PER_IMAGE:] = -1
    for start in range(0, images, BATCH):
        size = min(BATCH, images - start)
        scores = rng.random((size, class_num), np.float32) ** 4
        index = rng.choice(class_num, (size, listed), p=frequency / frequency.sum())
        rows = np.arange(size)[:, None]
        scores[rows, index] = rng.random((size, listed), np.float32)
        yield scores, index, value[:size]


def row(images: int, class_num: int) -> dict[str, float]:
    """One row of the table; runs in its own process to measure peak memory."""
    from data.common import start_tensorflow  # noqa: F401, I001 - before TensorFlow

    from models.metrics.evaluators import MultiLabelEvaluator, MultiLabelOptions

    parents = np.arange(class_num) // 2 - 1  # a binary tree, as deep as the released hierarchy
    evaluator = MultiLabelEvaluator(class_num, options=MultiLabelOptions(parents=parents))
    batches = 0.0
    for batch in made_up(images, class_num):
        batches += harness.timed(lambda batch=batch: evaluator.update(*batch)).seconds
    result = harness.timed(evaluator.result).seconds
    return {
        "what": f"{images:,} images",
        "classes": class_num,
        "batches s": batches,
        "result s": result,
        "ms an image": (batches + result) / images * 1e3,
        "peak memory MiB": harness.memory_bytes("VmHWM") / 2**20,
        "disk MiB": images * class_num * 4 / 2**20,
    }


def make(images: int, class_num: int) -> dict[str, Callable[[], dict[str, float]]]:
    return {"row": lambda: row(images, class_num)}


def measure(args: argparse.Namespace) -> list[dict[str, float]]:
    rows = []
    for images in args.images:
        process = harness.Contender(make, images, args.class_num)
        rows.append(process.ask("row"))
        process.close()
    return rows


if __name__ == "__main__":
    harness.main(
        *(measure, __doc__), images=([1_000, 10_000, 88_739], [200]), class_num=(11166, 50)
    )
