"""How cost grows: with classes, rows of a list, records, images, workers; a slope for each.

    python benchmarks/growth.py [--scaling SCALING.json] [--plot FILE.png] [--json FILE]

The slope is that of a line through the points on two logarithmic axes: 1 is proportional, below 1
is better, above 1 would not do for ML-Images. Workers come from what benchmarks/scaling.py has
written: there the images grow with the workers, and a slope of 0 is ideal.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import tensorflow as tf

from benchmarks.measuring import median_seconds, report
from benchmarks.scaling import SETTINGS
from data.input.sampler import RandomSampler
from data.lists.rows import Row, format_row, read_rows
from models.distributed.base import SingleProcess
from models.losses import ClassWeightOptions
from models.metrics.evaluators import MultiLabelEvaluator
from models.training.objectives import ClassWeights, Objective

CLASSES = (1_000, 10_000, 100_000)
ROWS = (1_000, 10_000, 100_000, 1_000_000)
RECORDS = (10**3, 10**5, 10**7)
IMAGES = (100, 1_000, 10_000)
BATCH, LABELS = 32, 9
METRIC_CLASSES = 500
WORKER = SingleProcess()

Measured = tuple[str, str, Sequence[int], Callable[[int, Path], float]]


def loss_seconds(class_num: int, folder: Path) -> float:
    """The loss and its gradient, batch 32."""
    del folder
    random = np.random.default_rng(0)
    logits = tf.Variable(random.normal(size=(BATCH, class_num)).astype(np.float32))
    index = tf.constant(random.integers(class_num, size=(BATCH, LABELS)), tf.int32)
    weights = ClassWeights(class_num, ClassWeightOptions(), 0)
    objective = Objective("multi_label", weights, positive_weight=12.0)

    @tf.function
    def run() -> tf.Tensor:
        weights = objective.begin_step(index, tf.ones(index.shape), tf.zeros([], tf.int64), WORKER)
        with tf.GradientTape() as tape:
            loss = objective.loss(logits, index, tf.ones(index.shape), weights)
        return tape.gradient(loss, logits)

    return median_seconds(run, 9)


def parsing_seconds(rows: int, folder: Path) -> float:
    """Every row of a list, parsed."""
    path = folder / f"{rows}.txt"
    line = format_row(Row("n01440764/n01440764_10026.JPEG", tuple(range(LABELS)), (1.0,) * LABELS))
    path.write_text(f"{line}\n" * rows)
    return median_seconds(lambda: sum(1 for _ in read_rows(path)), 3, warm_ups=1)


def order_seconds(records: int, folder: Path) -> float:
    """The order of one epoch's records, in files of 1,000."""
    del folder

    def read() -> None:
        order = RandomSampler([1000] * (records // 1000), 1, 1500, 2048)
        for start in range(0, order.total, 4096):
            order.records(start, 4096)

    return median_seconds(read, 3, warm_ups=0)


def metric_seconds(images: int, folder: Path) -> float:
    """All multi-label metrics over 500 classes."""
    random = np.random.default_rng(0)
    scores = random.random((images, METRIC_CLASSES), np.float32)
    index = random.integers(METRIC_CLASSES, size=(images, LABELS)).astype(np.int32)
    index.sort(axis=1)
    index[:, 1:][index[:, 1:] == index[:, :-1]] = -1
    value, valid = (index >= 0).astype(np.float32), np.ones(images, bool)
    del folder

    def evaluate() -> None:
        evaluator = MultiLabelEvaluator(METRIC_CLASSES, WORKER)
        evaluator.update(scores, index, value, valid)
        evaluator.result()

    return median_seconds(evaluate, 3, warm_ups=1)


MEASURED: tuple[Measured, ...] = (
    ("loss and gradient, batch 32", "classes", CLASSES, loss_seconds),
    ("parsing a list", "rows", ROWS, parsing_seconds),
    ("order of an epoch", "records", RECORDS, order_seconds),
    ("metrics, 500 classes", "images", IMAGES, metric_seconds),
)


def slope(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Of the least-squares line through (log size, log seconds)."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def measure() -> list[dict[str, Any]]:
    """A row a kind of cost, with the seconds of each size."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for what, unit, sizes, seconds_of in MEASURED:
            seconds = [seconds_of(size, Path(folder)) for size in sizes]
            rows.append(_row(what, unit, sizes, seconds))
    return rows


def by_workers(scaling: Path) -> dict[str, Any]:
    """The row of a training step, from the file that benchmarks/scaling.py has written."""
    measured = json.loads(scaling.read_text(encoding="utf-8"))
    steps = {
        row["workers"]: row["step_seconds"]
        for row in measured["rows"]
        if row["setting"] in ("", SETTINGS[0].name)  # one worker has no setting
    }
    what = f"step, {measured['batch_size']} images per worker"
    return _row(what, "workers", list(steps), list(steps.values()))


def _row(what: str, unit: str, sizes: Sequence[int], seconds: Sequence[float]) -> dict[str, Any]:
    times = "  ".join(f"{n:,}: {s:.2g}" for n, s in zip(sizes, seconds, strict=True))
    return {
        "what": what,
        "grows with": unit,
        "seconds": times,
        "slope": slope(sizes, seconds),
        "points": [list(sizes), list(seconds)],
    }


def plot(rows: Sequence[dict[str, Any]], path: str) -> None:
    """Draws the points and lines on logarithmic axes, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 5))
    for row in rows:
        label = f"{row['what']}, by {row['grows with']}: slope {row['slope']:.2f}"
        axes.loglog(*row["points"], "o-", label=label)
    axes.set(xlabel="size", ylabel="seconds", title="How cost grows")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12))
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scaling", type=Path, help="what benchmarks/scaling.py --output wrote")
    parser.add_argument("--plot", help="PNG file of the curves")
    parser.add_argument("--json", help="file for the rows as JSON")
    args = parser.parse_args(argv)
    rows = measure()
    if args.scaling:
        rows.append(by_workers(args.scaling))
    if args.plot:
        plot(rows, args.plot)
    shown = [{k: v for k, v in row.items() if k != "points"} for row in rows]
    report("Growth", shown, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
