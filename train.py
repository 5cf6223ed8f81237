"""Pretrains on multi-label TFRecords with the loss of ML-Images; see example/train.sh.

Runs as one process, or as many under `horovodrun`, `mpirun` or `srun`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from absl import logging

import flags
from data.pipeline import EvaluationInput, InputOptions, TrainingInput
from data.preprocessing import Augmentation
from models import checkpoint, loop, resume, workers
from models.devices import DeviceOptions
from models.losses import MultiLabelOptions
from models.metrics import MultiLabelEvaluator
from models.objectives import MultiLabelObjective
from models.optimizers import Optimizer, OptimizerOptions
from models.resnet import ResNet
from models.schedules import ScheduleOptions, make_schedule
from models.trainer import Trainer
from models.validation import Validation

FLAGS = flags.FLAGS


def main() -> int:
    objective = MultiLabelObjective(
        FLAGS.class_num, flags.fill(MultiLabelOptions), FLAGS.random_seed
    )
    return fit(objective, lambda: MultiLabelEvaluator(FLAGS.class_num))


def fit(
    objective: Any,
    make_evaluator: Callable[[], Any],
    trains: Callable[[str], bool] = lambda name: True,
    skip: Sequence[str] = (),
    bn_decay_share: float = 0.0,
) -> int:
    """Trains as the flags say; what pretraining and finetuning have in common.

    Args:
      make_evaluator: makes an empty accumulator of the metrics on --val_dir.
      trains: tells by a variable's checkpoint name whether it is trained.
      skip: patterns of variables that are not taken from --pretrain_ckpt.
      bn_decay_share: share of the weight decay that batch norm's scale and offset get.

    Returns:
      The exit code.
    """
    job = workers.start(FLAGS.compression)  # Horovod: join the other processes, if any.
    flags.fill(DeviceOptions).apply(job.local_rank, job.size > 1)  # Horovod: a GPU each.
    source = TrainingInput(
        flags.fill(InputOptions), flags.fill(Augmentation), job.rank, job.size
    )  # Horovod: a share of the records each.
    network = ResNet(
        FLAGS.resnet_size,
        FLAGS.class_num,
        width=FLAGS.width,
        data_format=FLAGS.data_format,
        batch_norm_decay=FLAGS.batch_norm_decay,
        batch_norm_epsilon=FLAGS.batch_norm_epsilon,
        compute_dtype=FLAGS.precision,
        seed=FLAGS.random_seed,
        recompute=FLAGS.recompute,
    )
    trainable = {name: v for name, v in network.trainable_by_name().items() if trains(name)}
    optimizer = Optimizer(trainable, flags.fill(OptimizerOptions, bn_decay_share=bn_decay_share))
    trainer = Trainer(network, objective, optimizer, job, FLAGS.accumulate_steps)
    checkpoints = checkpoint.CheckpointFolder(FLAGS.model_dir, FLAGS.max_to_keep)
    resume.restore_or_start(trainer, checkpoints, job, FLAGS.pretrain_ckpt, skip, FLAGS.restore)
    evaluate = make_validation(network, objective, make_evaluator, job)
    if FLAGS.mode == "val":
        logging.info("%s", evaluate())
        return 0
    global_batch = FLAGS.batch_size * FLAGS.accumulate_steps * job.size
    _log_arithmetic(job, source.records, global_batch)
    return loop.train(
        trainer,
        source.batches(int(trainer.position.numpy())),
        make_schedule(flags.fill(ScheduleOptions), FLAGS.max_iter, global_batch),
        checkpoints,
        flags.fill(loop.LoopOptions),
        job,
        evaluate,
        {"flags": flags.as_dict(), "versions": checkpoint.versions(), "workers": job.size},
        FLAGS.accumulate_steps,
    )


def make_validation(
    network: ResNet, objective: Any, make_evaluator: Callable[[], Any], job: workers.Workers
) -> Validation | None:
    """The evaluation on --val_dir, or None without it."""
    if FLAGS.val_dir is None:
        return None
    held_out = EvaluationInput(
        flags.fill(InputOptions, data_dir=FLAGS.val_dir), job.rank, job.size
    )  # Horovod: a share of the records each.
    return Validation(network, objective.probabilities, held_out.batches, make_evaluator, job)


def _log_arithmetic(job: workers.Workers, records: int, global_batch: int) -> None:
    if job.rank == 0:
        logging.info(
            "%d worker(s) x %d micro-batch(es) x %d images = %d images a step; "
            "%d records, %.1f steps an epoch, %d steps = %.2f epochs",
            job.size,
            FLAGS.accumulate_steps,
            FLAGS.batch_size,
            global_batch,
            records,
            records / global_batch,
            FLAGS.max_iter,
            FLAGS.max_iter * global_batch / records,
        )


if __name__ == "__main__":
    flags.run(main)
