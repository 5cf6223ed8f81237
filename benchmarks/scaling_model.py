"""Predicts training speed on 8 to 1,024 GPUs from one GPU's speed and the network's bandwidth.

    python benchmarks/scaling_model.py --plot scaling.png
    python benchmarks/scaling_model.py --measured scaling.json      # of benchmarks/scaling.py

A model, not a measurement: a step takes its computation plus the part of the gradients' all-reduce
not overlapped by the backward pass, or the input's time if that is longer. It is compared with
measurements (--measured) and published results. Sources: Patarasuk and Yuan, "Bandwidth optimal
all-reduce" (2009), for the ring; Goyal et al., arXiv 1706.02677, section 4, for the hierarchy.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import harness
from benchmarks.scaling import ALONE

GPUS = (8, 16, 32, 64, 128, 256, 512, 1024)
BITS = 8
BACKWARD_FRACTION = 2 / 3  # of a step's computation


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A cluster's bytes/s and seconds per message, inside a machine and between machines.

    `between` is shared by all GPUs of a machine.
    """

    gpus_per_node: int = 8
    inside: float = 130e9
    inside_latency: float = 3e-6
    between: float = 100e9 / BITS
    between_latency: float = 15e-6


@dataclasses.dataclass(frozen=True)
class Job:
    """A worker: its batch, images/s alone, gradients and input rate.

    `overlap` is the fraction of the backward pass that can overlap the all-reduce; `groups` are
    all-reduce calls per step; `input_rate` is images/s of a worker's input, None: unlimited.
    """

    batch: int
    images_per_second: float
    gradient_bytes: float
    groups: int = 4
    overlap: float = 0.5
    input_rate: float | None = None


def ring_seconds(size: float, workers: int, bandwidth: float, latency: float) -> float:
    """A ring all-reduce of `size` bytes: 2 (n - 1) messages of size / n bytes each."""
    return 2 * (workers - 1) * (size / workers / bandwidth + latency)


def flat_seconds(size: float, workers: int, cluster: Cluster) -> float:
    """One ring through all GPUs; its slowest link is between machines."""
    if workers <= cluster.gpus_per_node:
        return ring_seconds(size, workers, cluster.inside, cluster.inside_latency)
    return ring_seconds(size, workers, cluster.between, cluster.between_latency)


def hierarchical_seconds(size: float, workers: int, cluster: Cluster) -> float:
    """Reduce-scatter in each machine, a ring between machines for each part, all-gather."""
    local = min(workers, cluster.gpus_per_node)
    nodes = -(-workers // cluster.gpus_per_node)
    inside = ring_seconds(size, local, cluster.inside, cluster.inside_latency)
    # All GPUs of a machine send their parts, 1 / local each, at once over one connection.
    return inside + ring_seconds(size, nodes, cluster.between, cluster.between_latency)


ALGORITHMS = {"ring": flat_seconds, "hierarchical": hierarchical_seconds}


def step_seconds(job: Job, workers: int, cluster: Cluster, algorithm: str) -> float:
    """Seconds per step; the last group never overlaps the backward pass."""
    compute = job.batch / job.images_per_second
    size = job.gradient_bytes / job.groups
    group = ALGORITHMS[algorithm](size, workers, cluster) if workers > 1 else 0.0
    hidden = min(job.overlap * BACKWARD_FRACTION * compute, (job.groups - 1) * group)
    needed = compute + job.groups * group - hidden
    return max(needed, job.batch / job.input_rate) if job.input_rate else needed


def efficiency(job: Job, workers: int, cluster: Cluster, algorithm: str) -> float:
    """Images/s of `workers`, divided by `workers` times those of one."""
    alone = job.batch / job.images_per_second
    return alone / step_seconds(job, workers, cluster, algorithm)


# TensorFlow's benchmark page of 2017: a P100 reaches 219 images/s with ResNet-50 and 91.8 with
# ResNet-152; 129 with ResNet-101 is interpolated by operations. The cluster is that of arXiv
# 1802.05799: 128 machines of 4 Pascal GPUs with 25 Gbit/s; gradients of 44.5 million weights.
HOROVOD_JOB = Job(batch=64, images_per_second=129, gradient_bytes=4 * 44_545_192)
HOROVOD_CLUSTER = Cluster(gpus_per_node=4, inside=10e9, between=25e9 / BITS)
HOROVOD_POINT = (512, 0.90)
# ML-Images: 11,077 images/s on 128 GPUs, 4,096 images per step, gradients of 65.4 million weights.
ML_IMAGES_POINT = (128, 11_077)
ML_IMAGES_BATCH, ML_IMAGES_BYTES = 32, 4 * 65_375_326


def horovod_bracket() -> tuple[float, float]:
    """Efficiency at the published point, from no overlap to all of the backward pass."""
    jobs = [dataclasses.replace(HOROVOD_JOB, overlap=overlap) for overlap in (0.0, 1.0)]
    none, full = (efficiency(j, HOROVOD_POINT[0], HOROVOD_CLUSTER, "hierarchical") for j in jobs)
    return none, full


def ml_images_rate(cluster: Cluster) -> float:
    """images/s that one GPU alone needs for the published rate of 128, by bisection."""
    workers, published = ML_IMAGES_POINT
    low, high = published / workers, 10.0 * published / workers
    for _ in range(60):
        middle = (low + high) / 2
        job = Job(ML_IMAGES_BATCH, middle, ML_IMAGES_BYTES)
        rate = workers * ML_IMAGES_BATCH / step_seconds(job, workers, cluster, "hierarchical")
        low, high = (middle, high) if rate < published else (low, middle)
    return low


def validate(measured: list[dict[str, Any]]) -> None:
    """Prints the model's results next to the measured and published ones."""
    none, full = horovod_bracket()
    print(
        f"Horovod, ResNet-101 on {HOROVOD_POINT[0]}: published {HOROVOD_POINT[1]:.2f}, "
        f"model {none:.2f} (no overlap) to {full:.2f} (all of the backward pass)"
    )
    for gbit in (25, 100):
        rate = ml_images_rate(Cluster(between=gbit * 1e9 / BITS))
        print(
            f"ML-Images, 11,077 images/s on 128: {11_077 / 128:.1f} a GPU; with {gbit} Gbit/s the "
            f"model needs {rate:.1f} of one GPU alone (efficiency {11_077 / 128 / rate:.2f})"
        )
    together = {row["workers"]: row for row in measured if row["setting"] == ALONE}
    for row in measured:
        if row["workers"] in together and row["setting"] != ALONE:
            # On CPUs nothing overlaps: the cores that compute also do the all-reduce.
            step = row["step s"]
            model = together[row["workers"]]["step s"] + row["average s"]
            print(
                f"measured, {row['workers']} workers, {row['setting']}: {step:.2f} s a step, "
                f"model {model:.2f} s ({model / step - 1:+.0%})"
            )


def predictions(job: Job, cluster: Cluster) -> list[dict[str, Any]]:
    """A row for each number of GPUs."""
    rows = []
    for workers in GPUS:
        row: dict[str, Any] = {"what": f"{workers} GPUs"}
        for name in ALGORITHMS:
            shared = efficiency(job, workers, cluster, name)
            row[f"{name}, images/s"] = shared * workers * job.images_per_second
            row[f"{name}, efficiency"] = shared
        rows.append(row)
    return rows


def plot(job: Job, path: str) -> None:
    """Efficiency over the number of GPUs, for networks of 25, 100 and 400 Gbit/s a machine."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for gbit in (25, 100, 400):
        cluster = Cluster(between=gbit * 1e9 / BITS)
        for name, style in zip(ALGORITHMS, ("--", "-"), strict=True):
            percent = [100 * efficiency(job, workers, cluster, name) for workers in GPUS]
            axes.plot(GPUS, percent, style, label=f"model: {gbit} Gbit/s, {name}")
    axes.plot(HOROVOD_POINT[0], 100 * HOROVOD_POINT[1], "k*", markersize=12, label="Horovod, 2018")
    axes.set(xscale="log", xlabel="GPUs", ylabel="efficiency, %", ylim=(0, 105), xticks=GPUS)
    axes.set_xticks(GPUS, [str(workers) for workers in GPUS])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150, bbox_inches="tight")


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    job = Job(
        *(args.batch, args.images_per_second, args.gradient_bytes, args.groups, args.overlap),
        input_rate=args.input_rate or None,
    )
    validate(json.loads(Path(args.measured).read_text())["rows"] if args.measured else [])
    if args.plot:
        plot(job, args.plot)
    return predictions(job, Cluster(args.gpus_per_node, between=args.gbit * 1e9 / BITS))


if __name__ == "__main__":
    harness.main(
        *(measure, __doc__),
        images_per_second=(360.0, 360.0),  # of one GPU alone
        batch=(64, 64),  # images per GPU and step
        gradient_bytes=(float(ML_IMAGES_BYTES), float(ML_IMAGES_BYTES)),  # fp16: half
        groups=(4, 4),
        overlap=(0.5, 0.5),  # of the backward pass, 0 to 1
        input_rate=(0.0, 0.0),  # images/s of a GPU's input; 0: unlimited
        gbit=(100.0, 100.0),  # network of a machine, Gbit/s
        gpus_per_node=(8, 8),
        measured=("", ""),  # JSON of scaling.py
        plot=("", ""),  # PNG to draw
    )
