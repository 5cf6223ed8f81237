"""Training on 1 to N workers: images/s, efficiency, and the share of averaging and input in a step.

    python benchmarks/scaling.py [--workers 1 2] [--launcher mpi] [--data_dir=...] [--json FILE]

On CPUs each worker is pinned to its own core, so that two workers compared with one show the cost
of communication; on GPUs each uses one. Before the jobs, N processes run at once without
communicating: their slowdown is due to the machine (memory, caches), not the all-reduce. Repeated
for each of `SETTINGS`. Run it while nothing else runs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import harness

WARM_UP_STEPS = 2  # the first ones trace
WORKER_VARIABLE = "SCALING_WORKER"  # set in a worker to its task, as JSON
ALONE = "not communicating"
ONE = "1 worker"


class Setting(NamedTuple):
    """How gradients are sent: groups, data type, and Horovod's fusion buffer in MiB."""

    name: str
    gradient_groups: int = 4
    compression: str = "none"
    fusion_mib: int = 128


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("4 groups"),
        Setting("4 groups, fp16", compression="fp16"),
        Setting("1 group", gradient_groups=1),
        Setting("a variable each, fused", gradient_groups=0),
        Setting("a variable each, unfused", gradient_groups=0, fusion_mib=0),
    )
}
DEFAULT = "4 groups"


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each number of workers and each setting."""
    found = []
    for count in args.workers:
        if count == 1:
            found.append(run_job(args, 1, DEFAULT))
        else:
            found.append(run_alone(args, count))
            found += [run_job(args, count, setting) for setting in args.settings]
    one = next(row for row in found if row["workers"] == 1)
    return [
        {
            "what": f"{row['workers']} workers, {row['setting']}" if row["workers"] > 1 else ONE,
            "workers": row["workers"],
            "setting": row["setting"],
            "images/s": row["images/s"],
            "efficiency": row["images/s"] / row["workers"] / one["images/s"],
            "by CPU": one["cpu s"] / row["cpu s"],
            "average of a step": row["average s"] / row["step s"],
            "input of a step": row["input s"] / row["step s"],
            "step s": row["step s"],
            "average s": row["average s"],
        }
        for row in found
    ]


def run_job(args: argparse.Namespace, count: int, setting: str) -> dict[str, Any]:
    """Runs one job of `count` workers; returns rank 0's measurements."""
    mpi = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", count]
    gloo = ["horovodrun", "--gloo", "-np", count]
    launcher = [] if count == 1 else mpi if args.launcher == "mpi" else gloo
    (row,) = run(args, [(launcher, 0)], setting)
    return row | {"setting": setting if count > 1 else ""}


def run_alone(args: argparse.Namespace, count: int) -> dict[str, Any]:
    """Runs `count` independent processes at once."""
    rows = run(args, [([], core) for core in range(count)], DEFAULT)
    total = sum(row["images/s"] for row in rows)
    return rows[0] | {"setting": ALONE, "workers": count, "images/s": total}


def run(args: argparse.Namespace, jobs: list[tuple[list[Any], int]], setting: str) -> list[dict]:
    """Runs jobs at once, each with its launcher and, if alone, on its core; returns their rows."""
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        for launcher, core in jobs:
            task = {**vars(args), "json": None, "folder": folder, "setting": setting, "core": core}
            environment = {
                "TF_CPP_MIN_LOG_LEVEL": "3",
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "HOROVOD_FUSION_THRESHOLD": str(SETTINGS[setting].fusion_mib << 20),
                WORKER_VARIABLE: json.dumps(task),
            }
            command = [*map(str, launcher), *harness.from_root("benchmarks/scaling.py")]
            processes.append(subprocess.Popen(command, env=os.environ | environment))
        codes = [process.wait() for process in processes]
        if any(codes):
            raise SystemExit(f"error: {setting} ended with {codes}")
        return [json.loads(path.read_text()) for path in Path(folder).iterdir()]


def work(task: argparse.Namespace) -> None:
    """In a worker, times steps, their input and, separately, the averaging of all gradients."""
    from data.common import start_tensorflow  # noqa: F401, I001 - before TensorFlow

    from data.input.pipeline import Augmentation, InputOptions, TrainingInput
    from data.common.sharding import cut_step
    from models.distributed import launch
    from models.distributed.base import DistributedOptions
    from models.losses import ClassWeightOptions
    from models.resnet import ResNet
    from models.training.objectives import ClassWeights, Objective
    from models.training.optimizers import Optimizer, OptimizerOptions
    from models.training.trainer import Trainer

    setting = SETTINGS[task.setting]
    job = launch.start(DistributedOptions(setting.compression, setting.gradient_groups))
    pin(task.core + job.local_rank)
    network = ResNet(task.resnet_size, task.class_num)
    weights = ClassWeights(task.class_num, ClassWeightOptions(), seed=1)
    objective = Objective("multi_label", weights, positive_weight=12.0)
    optimizer = Optimizer(network.trainable_by_name(), OptimizerOptions())
    trainer = Trainer(network, objective, optimizer, job)
    step_shard = cut_step(task.batch_size * job.size, task.batch_size, job.shard)
    options = InputOptions(
        *(task.data_dir, task.image_size, task.batch_size, task.class_num),
        num_preprocess_threads=1,
        synthetic=not task.data_dir,
    )
    batches = TrainingInput(options, Augmentation(), step_shard).batches()
    row = job.run(
        trainer.variables_by_name().values(), lambda: time_steps(trainer, batches, job, task.steps)
    )
    if job.rank == 0:
        row |= {"workers": job.size, "images/s": step_shard.global_batch / row["step s"]}
        (Path(task.folder) / f"{os.getpid()}.json").write_text(json.dumps(row))


def pin(core: int) -> None:
    """Pins this worker to its own core, if there is no GPU."""
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), {core % os.cpu_count()})
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def time_steps(trainer: Any, batches: Iterator[Any], job: Any, steps: int) -> dict[str, float]:
    """Medians over the steps, in seconds: a step, its input, and the averaging alone.

    `cpu s` is a step's processor time, which other programs affect least.
    """
    import tensorflow as tf

    gradients = [tf.zeros_like(v) for v in trainer.network.trainable_by_name().values()]
    average = tf.function(lambda: [tf.reduce_sum(g) for g in job.average_gradients(gradients)])
    times: dict[str, list[float]] = {"step s": [], "input s": [], "average s": [], "cpu s": []}
    for number in range(steps + WARM_UP_STEPS):
        started, cpu_before = time.perf_counter(), time.process_time()
        batch = next(batches)
        ready = time.perf_counter()
        float(trainer.step([batch], 0.01))
        done, cpu_after = time.perf_counter(), time.process_time()
        average()[0].numpy()
        if number >= WARM_UP_STEPS:
            times["step s"].append(done - started)
            times["cpu s"].append(cpu_after - cpu_before)
            times["input s"].append(ready - started)
            times["average s"].append(time.perf_counter() - done)
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    if WORKER_VARIABLE in os.environ:
        work(argparse.Namespace(**json.loads(os.environ[WORKER_VARIABLE])))
    else:
        harness.main(
            *(measure, __doc__),
            workers=([1, 2], [1, 2]),
            settings=(list(SETTINGS), [DEFAULT]),
            launcher=("gloo", "gloo"),
            data_dir=("", ""),
            resnet_size=(101, 14),
            class_num=(11166, 20),
            image_size=(224, 32),
            batch_size=(8, 2),
            steps=(4, 1),
        )
