"""Trains small networks on fixed batches, as one process or as many, and saves what came out.

    python tests/distributed_checks.py FOLDER NAME...

Runs under horovodrun or mpirun; worker R writes FOLDER/NAME.R.npz for each case. The images are the
same however many workers share them, so the numbers can be compared.
"""

import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data.common.sharding import StepShard, cut_step
from models.distributed import launch
from models.distributed.base import Distributed, DistributedOptions
from models.losses import ClassWeightOptions
from models.resnet import ResNet
from models.training.metric_writer import reported
from models.training.objectives import ClassWeights, Objective
from models.training.optimizers import Optimizer, OptimizerOptions
from models.training.trainer import Trainer

CLASSES = 10
IMAGES_PER_STEP = 12
STEPS = 5
SIDE = 32
STALL_SECONDS = 1
RATE = 0.01
# Not 1e-5: in so few pixels some channels hardly vary, and a division by almost nothing carries
# rounding over the corner of a ReLU.
EPSILON = 0.1


class Case(NamedTuple):
    """A way to train: the loss, the batch norm, how the step is cut up, how gradients travel."""

    loss: str = "pretraining"
    batch_norm: str = "frozen"
    micro_batch: int = IMAGES_PER_STEP
    statistics: str = "global"
    workers: DistributedOptions = DistributedOptions()
    recompute: bool = False


CASES = {
    "pretraining": Case(),
    "pretraining_synchronized": Case(batch_norm="synchronized"),
    "pretraining_synchronized_recomputed": Case(batch_norm="synchronized", recompute=True),
    "finetuning": Case("softmax"),
    "finetuning_synchronized": Case("softmax", "synchronized"),
    "accumulated": Case(micro_batch=1),
    "uneven": Case(micro_batch=4),
    "one_group": Case(workers=DistributedOptions(deterministic=True)),
    "no_group": Case(workers=DistributedOptions(gradient_groups=0)),
    "compressed": Case(workers=DistributedOptions(compression="fp16")),
    "local": Case(statistics="local"),
    "own_batch_norm": Case(batch_norm="own"),
}


class Batch(NamedTuple):
    """What the trainer takes, see data/input/pipeline.py."""

    images: tf.Tensor
    label_index: tf.Tensor
    label_value: tf.Tensor
    global_label_index: tf.Tensor
    global_label_value: tf.Tensor


def step_records(step: int, single: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images [N, H, W, 3] and labels [N, K] of a whole step."""
    draw = np.random.RandomState(step)
    images = draw.uniform(-1, 1, (IMAGES_PER_STEP, SIDE, SIDE, 3)).astype(np.float32)
    if single:
        index = draw.randint(0, CLASSES, (IMAGES_PER_STEP, 1))
        return images, index.astype(np.int32), np.ones(index.shape, np.float32)
    index = np.stack([draw.permutation(CLASSES)[:3] for _ in images]).astype(np.int32)
    # One label an image counts as positive, and few classes do in each step.
    value = np.tile(np.float32([0.9, 0.4, -1.0]), (IMAGES_PER_STEP, 1))
    index[:, 0] = np.where(np.isin(index[:, 0], (0, 1, 2 + step)), index[:, 0], -1)
    return images, index, value


def micro_batches(step: int, step_shard: StepShard, single: bool) -> list[Batch]:
    """This worker's part of a step."""
    records = step_records(step, single)
    start, size = step_shard.first * step_shard.micro_batch, step_shard.micro_batch
    own = [array[start : start + step_shard.count * size] for array in records]
    cuts = [slice(i * size, (i + 1) * size) for i in range(step_shard.count)]
    return [Batch(*(tf.constant(a[cut]) for a in own), own[1], own[2]) for cut in cuts]


def train(case: Case, job: Distributed) -> dict[str, np.ndarray]:
    """The losses of all steps and the variables after them."""
    single = case.loss == "softmax"
    options = ClassWeightOptions(neg_select=0.5, loss_statistics=case.statistics)
    if single:
        objective = Objective("softmax", label_smoothing=0.0)
    else:
        class_weights = ClassWeights(CLASSES, options, seed=7)
        objective = Objective("multi_label", class_weights, positive_weight=12.0)
    network = ResNet(
        14,
        CLASSES,
        width=8,
        batch_norm_epsilon=EPSILON,
        freeze_batch_norm=case.batch_norm == "frozen",
        recompute=case.recompute,
        reduce_moments=job.average if case.batch_norm == "synchronized" else None,
        moment_workers=job.size,
        seed=job.rank,  # what rank 0 has is broadcast
    )
    optimizer = Optimizer(network.trainable_by_name(), OptimizerOptions())
    trainer = Trainer(network, objective, optimizer, job)
    most = min(case.micro_batch, -(-IMAGES_PER_STEP // job.size))
    step_shard = cut_step(IMAGES_PER_STEP, most, job.shard)

    def body() -> list[float]:
        losses = []
        for step in range(STEPS):
            batches = micro_batches(step, step_shard, single)
            loss = float(trainer.step(batches, RATE, step_shard.total))
            losses.append(job.sum(np.array([loss]))[0] / job.size)
        trainer.average_statistics()
        return losses

    losses = job.run(trainer.variables_by_name().values(), body)
    values = {name: v.numpy() for name, v in trainer.variables_by_name().items()}
    assert trainer.position.numpy() == STEPS * IMAGES_PER_STEP
    return values | {"losses": np.array(losses)}


def check_sums(job: Distributed) -> None:
    """Totals of whole numbers are exact, and a class counts wherever it was seen."""
    large = 2**60 + 1
    assert job.sum(np.array([large, job.rank], np.int64)).tolist() == [
        large * job.size,
        job.size * (job.size - 1) // 2,
    ]
    seen = tf.equal(tf.range(job.size + 1), job.rank)
    assert job.any_positive(seen).numpy().tolist() == [True] * job.size + [False]


def stall(job: Distributed) -> None:
    """The last worker has no input for a while, and the others wait for it."""
    with reported(f"worker {job.rank} has been waiting for its input", STALL_SECONDS):
        time.sleep(4 * STALL_SECONDS if job.rank == job.size - 1 else 0)
    with reported(f"worker {job.rank} has been in step 0", STALL_SECONDS):
        # Not a sum again: of an all-reduce that it knows, Horovod reports a stall a round later.
        job.average([tf.zeros([])])


def main(arguments: list[str]) -> None:
    folder, names = Path(arguments[0]), arguments[1:]
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    job = launch.start(DistributedOptions(stall_seconds=STALL_SECONDS))
    check_sums(job)
    for name in names:
        job = launch.start(CASES[name].workers)
        np.savez(folder / f"{name}.{job.rank}.npz", **train(CASES[name], job))
    stall(job)


if __name__ == "__main__":
    main(sys.argv[1:])
