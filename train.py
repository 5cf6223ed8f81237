"""Pretrains on multi-label TFRecords with the loss of ML-Images; see example/train.sh.

Runs as one process, or as many under `horovodrun`, `mpirun` or `srun`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flags
from data.common import script
from data.common.errors import UserError
from data.common.script import as_dict, from_flags, set_defaults
from data.common.sharding import StepOptions, arithmetic, step_shard_of
from data.input.augment import Augmentation
from data.input.evaluation import EvaluationImages, Preparation
from data.input.pipeline import InputOptions, TrainingInput
from models import backbones
from models.checkpoints.checkpoint import CheckpointFolder, versions
from models.devices import DeviceOptions
from models.distributed import launch
from models.distributed.base import Distributed, DistributedOptions
from models.losses import LOSSES, ClassWeightOptions
from models.metrics.evaluators import MultiLabelEvaluator, MultiLabelOptions, SingleLabelEvaluator
from models.training import loop, overview, resume
from models.training.early_stopping import EarlyStopping
from models.training.objectives import ClassWeights, Mixup, Objective
from models.training.optimizers import Optimizer, OptimizerOptions, WeightAverage
from models.training.schedules import ScheduleOptions, make_schedule
from models.training.trainer import Trainer
from models.training.validation import Validation

FLAGS = flags.FLAGS


def main() -> int:
    return fit()


def make_objective() -> Objective:
    """The loss that --loss names, with its keyword arguments filled from the flags."""
    loss, weights = LOSSES[FLAGS.loss], None
    if loss.class_weights:
        options = from_flags(ClassWeightOptions)
        weights = ClassWeights(FLAGS.class_num, options, FLAGS.random_seed)
    numbers = {name: FLAGS[name].value for name in loss.numbers() if name in FLAGS}
    return Objective(FLAGS.loss, weights, **numbers)


def make_evaluator(job: Distributed) -> MultiLabelEvaluator | SingleLabelEvaluator:
    """The evaluator for the labels of --loss, with the default options of evaluate.py."""
    if LOSSES[FLAGS.loss].single_label:
        return SingleLabelEvaluator(FLAGS.class_num, job)
    options = from_flags(MultiLabelOptions, threshold=0.5)
    return MultiLabelEvaluator(FLAGS.class_num, job, options)


def fit(
    trains: Callable[[str], bool] = lambda name: True,
    skip: Sequence[str] = (),
    bn_decay_fraction: float = 0.0,
) -> int:
    """Trains as the flags say, for pretraining and finetuning alike; returns the exit code.

    Args:
      trains: checkpoint name of a variable -> whether it is trained.
      skip: patterns of the variables that are not restored from --pretrain_ckpt.
      bn_decay_fraction: fraction of the weight decay that batch norm's gamma and beta get.
    """
    job = launch.start(from_flags(DistributedOptions))  # Horovod: join the other processes.
    from_flags(DeviceOptions).apply(job.local_rank, job.launched)  # Horovod: a GPU each.
    measures = FLAGS.mode == "val"  # Restores every variable, or fails.
    skip, must_restore = () if measures else skip, measures or FLAGS.restore
    if not measures:
        resume.claim(FLAGS.model_dir, FLAGS.log_dir, job)
    set_defaults(resume.sizes(FLAGS.model_dir, FLAGS.pretrain_ckpt, skip, job))
    network, objective = make_network(job), make_objective()
    trainable = {name: v for name, v in network.trainable_by_name().items() if trains(name)}
    optimizer = Optimizer(
        trainable, from_flags(OptimizerOptions, bn_decay_fraction=bn_decay_fraction)
    )
    weights = network.variables_by_name()
    average = WeightAverage(weights, FLAGS.ema_decay) if FLAGS.ema_decay else None
    mixup = Mixup(FLAGS.mixup_alpha, FLAGS.random_seed, job.rank) if FLAGS.mixup_alpha else None
    checkpoints, best = CheckpointFolder(FLAGS.model_dir, FLAGS.max_to_keep), make_best()
    trainer = Trainer(network, objective, optimizer, job, average, mixup, best and best.progress())
    start = FLAGS.pretrain_ckpt, skip, must_restore, as_dict()
    resume.restore_or_start(trainer, checkpoints, job, *start)
    variables = {**trainer.variables_by_name(), **trainer.progress()}
    # Horovod: broadcasts rank 0's variables now, and again when workers of an elastic job change.
    return job.run(variables.values(), lambda: run(trainer, job, checkpoints, best))


def run(
    trainer: Trainer, job: Distributed, checkpoints: CheckpointFolder, best: EarlyStopping | None
) -> int:
    """Trains or evaluates from the trainer's step on, with the current workers; the exit code."""
    evaluate = None
    if FLAGS.val_dir is not None:  # Horovod: each worker evaluates its own batches.
        held_out = EvaluationImages((), FLAGS.val_dir, FLAGS.class_num, FLAGS.max_bad_records)
        how = Preparation(FLAGS.image_size), FLAGS.batch_size, FLAGS.num_preprocess_threads
        evaluate = Validation(
            trainer.network,
            trainer.objective.probabilities,
            lambda: held_out.batches(*how, job.rank, job.size),
            lambda: make_evaluator(job),  # Horovod: counts are added up, then divided.
            trainer.average,
        )
    if FLAGS.mode == "val":
        if evaluate is None:
            raise UserError("--mode=val needs --val_dir")
        evaluate.show(job.rank)
        return 0
    if best:
        best.check(evaluate.names())
    # Horovod: each worker trains on its own part of every step.
    step_shard = step_shard_of(
        from_flags(StepOptions), job.shard, job.elastic, FLAGS.sync_batch_norm
    )
    source = TrainingInput(from_flags(InputOptions), from_flags(Augmentation), step_shard)
    schedule = make_schedule(from_flags(ScheduleOptions), FLAGS.max_iter, step_shard.global_batch)
    if job.rank == 0:
        planned = arithmetic(step_shard, job.size, source.records, FLAGS.max_iter)
        overview.show(trainer.network, planned, schedule, from_flags(overview.OverviewOptions))
    meta = {"flags": as_dict()}
    return loop.train(
        trainer,
        source.batches(int(trainer.position.numpy())),
        schedule,
        checkpoints,
        from_flags(loop.LoopOptions),
        job,
        evaluate,
        meta | {"versions": versions(), "workers": job.size},
        step_shard,
        best,
    )


def make_network(job: Distributed) -> Any:
    """The network that the flags describe, with initial values."""
    synchronized = FLAGS.sync_batch_norm and job.size > 1
    return backbones.find(FLAGS.backbone)(
        *(FLAGS.resnet_size, FLAGS.class_num),
        width=FLAGS.width,
        data_format=FLAGS.data_format,
        batch_norm_decay=FLAGS.batch_norm_decay,
        batch_norm_epsilon=FLAGS.batch_norm_epsilon,
        compute_dtype=FLAGS.precision,
        seed=FLAGS.random_seed,
        freeze_batch_norm=FLAGS.freeze_batch_norm,
        recompute=FLAGS.recompute,
        reduce_moments=job.average if synchronized else None,  # Horovod: one batch norm for all.
        moment_workers=job.size,
    )


def make_best() -> EarlyStopping | None:
    """Keeps the best checkpoint in best/ of --model_dir; None without --best_metric."""
    if not FLAGS.best_metric:
        return None
    if not FLAGS.val_dir:
        raise UserError(f"--best_metric={FLAGS.best_metric} needs --val_dir")
    folder = CheckpointFolder(Path(FLAGS.model_dir) / "best", max_to_keep=1)
    return EarlyStopping(FLAGS.best_metric, FLAGS.patience, folder)


if __name__ == "__main__":
    script.run(main)
