"""Measures training on 1 to N workers: images/s, efficiency, and the shares of sum and input.

    python benchmarks/scaling.py --workers 1 2 --output scaling.json
    python benchmarks/scaling.py --workers 1 2 --launcher mpi --data_dir=quickstart/train

On CPUs every worker is pinned to a core of its own, so that two workers against one show what the
communication costs; on GPUs each takes one. Before the jobs, N processes that do not communicate
run at once: what they lose against one is the machine's (memory, caches), not the all-reduce's.
The same is measured with each setting of `SETTINGS`. Run it while nothing else runs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import tensorflow as tf
from absl import logging

from data.input.pipeline import Augmentation, InputOptions, TrainingInput
from data.input.sharding import shard_step
from models.distributed import launch
from models.distributed.base import Distributed, DistributedOptions
from models.losses import ClassWeightOptions
from models.resnet import ResNet
from models.training.objectives import ClassWeights, Objective
from models.training.optimizers import Optimizer, OptimizerOptions
from models.training.trainer import Trainer

BIN = Path(sys.executable).parent
WARM_UP_STEPS = 2  # the first ones trace


class Setting(NamedTuple):
    """How gradients travel: groups, their type, and Horovod's fusion buffer in MiB."""

    name: str
    gradient_groups: int = 4
    compression: str = "none"
    fusion_mib: int = 128


SETTINGS = (
    Setting("4 groups"),
    Setting("4 groups, fp16", compression="fp16"),
    Setting("1 group", gradient_groups=1),
    Setting("a variable each, fused", gradient_groups=0),
    Setting("a variable each, unfused", gradient_groups=0, fusion_mib=0),
)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    if arguments.worker:
        measure(arguments)
        return 0
    rows = []
    for count in arguments.workers:
        settings = (
            [s for s in SETTINGS if s.name in arguments.settings] if count > 1 else SETTINGS[:1]
        )
        rows += [run_alone(arguments, count)] if count > 1 else []
        rows += [run_job(arguments, count, setting) for setting in settings]
    alone = next(row for row in rows if row["workers"] == 1)
    for row in rows:
        row["efficiency"] = row["images_per_second"] / row["workers"] / alone["images_per_second"]
        row["cpu_efficiency"] = alone["cpu_seconds"] / row["cpu_seconds"]
    print_table(rows)
    if arguments.output:
        arguments.output.write_text(json.dumps({"rows": rows, **describe(arguments)}, indent=1))
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--settings", nargs="+", default=[setting.name for setting in SETTINGS])
    parser.add_argument("--launcher", choices=["gloo", "mpi"], default="gloo")
    parser.add_argument("--resnet_size", type=int, default=101)
    parser.add_argument("--class_num", type=int, default=11166)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=16, help="images of a worker and step")
    parser.add_argument("--steps", type=int, default=5, help="steps measured, after two more")
    parser.add_argument("--data_dir", help="TFRecords; without it one made-up batch")
    parser.add_argument("--output", type=Path, help="JSON file for scaling_model.py")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--setting", type=json.loads, default=[], help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def run_job(arguments: argparse.Namespace, count: int, setting: Setting) -> dict[str, Any]:
    """One job of `count` workers; what its rank 0 measured."""
    mpi = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", count]
    gloo = ["horovodrun", "--gloo", "-np", count]
    launch = {1: []}.get(count, mpi if arguments.launcher == "mpi" else gloo)
    with tempfile.TemporaryDirectory() as folder:
        command = [*launch, *worker_command(folder, setting)]
        environment = {"HOROVOD_FUSION_THRESHOLD": str(setting.fusion_mib << 20)}
        run([(command, environment)])
        (result,) = Path(folder).iterdir()
        return {"setting": setting.name if count > 1 else "", **json.loads(result.read_text())}


def run_alone(arguments: argparse.Namespace, count: int) -> dict[str, Any]:
    """`count` processes at once that know nothing of each other."""
    with tempfile.TemporaryDirectory() as folder:
        command = worker_command(folder, SETTINGS[0])
        run([(command, {"SCALING_CORE": str(core)}) for core in range(count)])
        results = [json.loads(path.read_text()) for path in Path(folder).iterdir()]
        total = sum(result["images_per_second"] for result in results)
        return results[0] | {
            "setting": "not communicating",
            "workers": count,
            "images_per_second": total,
        }


def worker_command(folder: str, setting: Setting) -> list[str]:
    hidden = ["--worker", folder, "--setting", json.dumps(setting)]
    return [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], *hidden]


def run(commands: list[tuple[list[Any], dict[str, str]]]) -> None:
    """Runs commands at once, each with additions to its environment."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "PATH": f"{BIN}:{os.environ['PATH']}"}
    processes = [
        subprocess.Popen(list(map(str, command)), env=os.environ | quiet | extra)
        for command, extra in commands
    ]
    codes = [process.wait() for process in processes]
    if any(codes):
        raise SystemExit(f"error: {' '.join(map(str, commands[0][0]))} ended with {codes}")


def measure(arguments: argparse.Namespace) -> None:
    """In a worker: times steps, their input and, alone, the averaging of all gradients."""
    setting = Setting(*arguments.setting)
    job = launch.start(DistributedOptions(setting.compression, setting.gradient_groups))
    pin(job)
    trainer = make_trainer(arguments, job)
    share = shard_step(arguments.batch_size * job.size, arguments.batch_size, job.shard)
    options = InputOptions(
        arguments.data_dir or "",
        arguments.image_size,
        arguments.batch_size,
        arguments.class_num,
        num_preprocess_threads=1,
        synthetic=not arguments.data_dir,
    )
    batches = TrainingInput(options, Augmentation(), share).batches()
    result = job.run(
        trainer.variables_by_name().values(),
        lambda: time_steps(trainer, batches, job, arguments.steps),
    )
    if job.rank == 0:
        result |= {
            "workers": job.size,
            "images_per_second": share.global_batch / result["step_seconds"],
            "gradient_bytes": 4
            * sum(v.shape.num_elements() for v in trainer.network.trainable_by_name().values()),
        }
        (arguments.worker / f"{os.getpid()}.json").write_text(json.dumps(result))
        logging.info("%s: %s", setting.name, result)


def pin(job: Distributed) -> None:
    """Gives this worker a core of its own, where there is no GPU."""
    if tf.config.list_physical_devices("GPU"):
        return
    core = int(os.environ.get("SCALING_CORE", job.local_rank)) % os.cpu_count()
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), {core})
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def make_trainer(arguments: argparse.Namespace, job: Distributed) -> Trainer:
    network = ResNet(arguments.resnet_size, arguments.class_num)
    weights = ClassWeights(arguments.class_num, ClassWeightOptions(), seed=1)
    objective = Objective("multi_label", weights, positive_weight=12.0)
    optimizer = Optimizer(network.trainable_by_name(), OptimizerOptions())
    return Trainer(network, objective, optimizer, job)


def time_steps(trainer: Trainer, batches: Any, job: Distributed, steps: int) -> dict[str, float]:
    """Medians over the steps, in seconds: a step, its input, and the averaging by itself.

    `cpu_seconds` is what a step takes of the processor, which other programs disturb least.
    """
    gradients = [tf.zeros_like(v) for v in trainer.network.trainable_by_name().values()]
    average = tf.function(lambda: [tf.reduce_sum(g) for g in job.average_gradients(gradients)])
    times: dict[str, list[float]] = {"step": [], "input": [], "average": [], "cpu": []}
    for number in range(steps + WARM_UP_STEPS):
        started, cpu_before = time.perf_counter(), time.process_time()
        batch = next(batches)
        ready = time.perf_counter()
        float(trainer.step([batch], 0.01))
        done, cpu_after = time.perf_counter(), time.process_time()
        average()[0].numpy()
        if number >= WARM_UP_STEPS:
            times["step"].append(done - started)
            times["cpu"].append(cpu_after - cpu_before)
            times["input"].append(ready - started)
            times["average"].append(time.perf_counter() - done)
    return {f"{name}_seconds": statistics.median(values) for name, values in times.items()}


def print_table(rows: list[dict[str, Any]]) -> None:
    """Rates, efficiency by the clock and by the processor, shares of averaging and input."""
    heads = ("images/s", "efficiency", "by CPU", "average", "input")
    print(f"{'workers':>7}  {'setting':25}" + "".join(f"{head:>11}" for head in heads))
    for row in rows:
        step = row["step_seconds"]
        print(
            f"{row['workers']:7d}  {row['setting']:25}{row['images_per_second']:11.2f}"
            f"{row['efficiency']:11.3f}{row['cpu_efficiency']:11.3f}"
            f"{row['average_seconds'] / step:11.1%}{row['input_seconds'] / step:11.1%}"
        )


def describe(arguments: argparse.Namespace) -> dict[str, Any]:
    names = (
        "resnet_size",
        "class_num",
        "image_size",
        "batch_size",
        "steps",
        "launcher",
        "data_dir",
    )
    return {name: getattr(arguments, name) for name in names}


if __name__ == "__main__":
    sys.exit(main())
