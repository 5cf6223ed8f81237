"""How cost grows with classes, list rows, records and images, with the slope of each.

    python benchmarks/growth.py [--plot growth.png] [--json FILE]

The slope is that of a line fitted to the points on log-log axes: 1 is proportional, below 1 is
better, above 1 is too slow for ML-Images.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from benchmarks import harness, lists, loss, metrics
from data.input.sampler import RandomSampler
from data.lists.rows import read_rows
from models.metrics.evaluators import MultiLabelEvaluator

METRIC_CLASSES = 500


def loss_seconds(class_num: int) -> float:
    job = loss.contenders(32, class_num)["ours, sparse labels"]
    return harness.median_seconds(job, 9)


def parsing_seconds(rows: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list.txt"
        lists.make_list(path, rows)
        return harness.median_seconds(lambda: sum(1 for _ in read_rows(path)), 5, warm_ups=1)


def order_seconds(records: int) -> float:
    """Time to compute one epoch's order of records, in files of 1,000."""

    def read() -> None:
        order = RandomSampler([1000] * (records // 1000), 1, 1500, 2048)
        for start in range(0, order.total, 4096):
            order.records(start, 4096)

    return harness.median_seconds(read, 5, warm_ups=0)


def metric_seconds(images: int) -> float:
    batches = list(metrics.made_up(images, METRIC_CLASSES))

    def evaluate() -> None:
        evaluator = MultiLabelEvaluator(METRIC_CLASSES)
        for batch in batches:
            evaluator.update(*batch)
        evaluator.result()

    return harness.median_seconds(evaluate, 5, warm_ups=1)


# What is measured, what grows, the full sizes, the sizes with --quick, and the function.
KINDS: tuple[tuple[str, str, Sequence[int], Sequence[int], Callable[[int], float]], ...] = (
    ("loss and gradient, batch 32", "classes", (10**3, 10**4, 10**5), (50, 100), loss_seconds),
    ("parsing a list", "rows", (10**3, 10**4, 10**5, 10**6), (100, 200), parsing_seconds),
    ("order of an epoch", "records", (10**3, 10**5, 10**7), (1000, 2000), order_seconds),
    ("metrics, 500 classes", "images", (100, 1000, 10**4), (10, 20), metric_seconds),
)


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each kind of cost, with the seconds for each size."""
    rows, curves = [], {}
    for what, unit, full, quick, seconds_of in KINDS:
        sizes = quick if args.quick else full
        seconds = [seconds_of(size) for size in sizes]
        slope = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
        times = "  ".join(f"{n:,}: {s:.2g}" for n, s in zip(sizes, seconds, strict=True))
        rows.append({"what": what, "grows with": unit, "seconds": times, "slope": slope})
        curves[f"{what}, by {unit}: slope {slope:.2f}"] = sizes, seconds
    if args.plot:
        plot(curves, args.plot)
    return rows


def plot(curves: dict[str, tuple[Sequence[int], Sequence[float]]], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 5))
    for label, points in curves.items():
        axes.loglog(*points, "o-", label=label)
    axes.set(xlabel="size", ylabel="seconds", title="How cost grows")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12))
    figure.savefig(path, dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    harness.main(measure, __doc__, plot=("", ""))
