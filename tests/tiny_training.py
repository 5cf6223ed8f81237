"""A tiny network, its trainer, and batches held in memory, for the tests of training."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from models.checkpoints.folder import CheckpointFolder
from models.distributed.base import SingleProcess
from models.losses import ClassWeightOptions
from models.resnet import ResNet
from models.training import loop, resume
from models.training.objectives import ClassWeights, Objective
from models.training.optimizers import Optimizer, OptimizerOptions, WeightAverage
from models.training.trainer import Trainer

CLASSES, BATCH, SIDE = 5, 4, 32


class Held(NamedTuple):
    images: tf.Tensor
    label_index: tf.Tensor
    label_value: tf.Tensor
    global_label_index: tf.Tensor
    global_label_value: tf.Tensor


def batch(number: int) -> Held:
    random = np.random.default_rng(number)
    images = tf.constant(random.uniform(-1, 1, (BATCH, SIDE, SIDE, 3)), tf.float32)
    index = tf.constant(random.integers(0, CLASSES, (BATCH, 1)), tf.int32)
    value = tf.ones([BATCH, 1])
    return Held(images, index, value, index, value)


def batches(position: int) -> Iterator[Held]:
    while True:
        yield batch(position // BATCH)
        position += BATCH


def trainer_of(objective=None, dtype=tf.float32, mixup=None, average=0.0, best=None) -> Trainer:
    network = ResNet(14, CLASSES, width=8, compute_dtype=dtype, seed=3)
    weights = ClassWeights(CLASSES, ClassWeightOptions(), 3)
    optimizer = Optimizer(network.trainable_by_name(), OptimizerOptions())
    return Trainer(
        network,
        objective or Objective("multi_label", weights, positive_weight=12.0),
        optimizer,
        SingleProcess(),
        average=WeightAverage(network.variables_by_name(), average) if average else None,
        mixup=mixup,
        extra_progress=best.progress() if best else None,
    )


def train(trainer: Trainer, folder: Path, steps: int, **options) -> int:
    checkpoints = CheckpointFolder(folder, max_to_keep=3)
    resume.restore_or_start(trainer, checkpoints, SingleProcess())
    interval, rate = options.pop("eval_interval", 0), options.pop("rate", 0.05)
    return loop.train(
        trainer,
        options.pop("batches", batches)(int(trainer.position)),
        lambda step: rate,
        checkpoints,
        loop.LoopOptions(
            steps,
            log_interval=1,
            snapshot=options.pop("snapshot", 2),
            log_dir=str(folder / "log"),
            eval_interval=interval,
        ),
        SingleProcess(),
        **options,
    )


def weights(trainer: Trainer) -> dict[str, np.ndarray]:
    return {name: v.numpy() for name, v in trainer.variables_by_name().items()}
