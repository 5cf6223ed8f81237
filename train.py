"""Pretrains on multi-label TFRecords with the ML-Images loss; see example/train.sh.

    python train.py --data_dir=RECORDS --class_num=11166 --model_dir=FOLDER

The same command resumes. Runs as one process, or as several under `horovodrun`, `mpirun` or `srun`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flags
from data.common import script
from data.common.errors import UserError
from data.common.script import as_dict, flag_file, from_flags, set_defaults
from data.common.sharding import StepOptions, StepShard
from data.input.augment import Augmentation
from data.input.evaluation import EvaluationImages, Preparation
from data.input.pipeline import InputOptions, TrainingInput
from data.lists.classes import Classes
from data.tfrecords.reading import ReadOptions
from models import backbones
from models.devices import DeviceOptions
from models.distributed.base import Distributed, DistributedOptions
from models.losses import LOSSES, ClassWeightOptions
from models.metrics.evaluators import MultiLabelEvaluator, MultiLabelOptions, SingleLabelEvaluator
from models.training.fit import RunOptions, fit
from models.training.loop import LoopOptions
from models.training.objectives import ClassWeights, Objective
from models.training.optimizers import OptimizerOptions
from models.training.overview import OverviewOptions
from models.training.schedules import ScheduleOptions
from models.training.trainer import Trainer
from models.training.validation import LabelMeasure, Validation

FLAGS = flags.FLAGS


def main() -> int:
    return fit(Classification(), run_options())


class Classification:
    """Image classification, the task of pretraining and finetuning (models/training/fit.py).

    Args:
      trains: maps a variable's checkpoint name to whether it is trained.
      skip: patterns of the variables that are not restored from --pretrain_ckpt.
    """

    def __init__(
        self, trains: Callable[[str], bool] = lambda name: True, skip: Sequence[str] = ()
    ) -> None:
        self.trains, self.skip, self.read_classes = trains, skip, Classes.read

    def network(self, job: Distributed, sizes: Mapping[str, int]) -> Any:
        """The network described by the flags, with initial values."""
        set_defaults(sizes)
        return make_backbone(job)

    def image_sizes(self) -> str:
        """The image size, for the log."""
        return f"{FLAGS.image_size} x {FLAGS.image_size} pixels"

    def next_commands(self) -> Sequence[str]:
        """Commands to run next with the checkpoint."""
        data = FLAGS.val_dir or "RECORDS"
        return (
            f"python evaluate.py --model_dir={{model_dir}} --val_dir={data}",
            "python image_classification.py --model_dir={model_dir} --page=page.html IMAGE...",
        )

    def objective(self) -> Objective:
        """The loss named by --loss, with its keyword arguments taken from the flags."""
        loss, weights = LOSSES[FLAGS.loss], None
        if loss.class_weights:
            options = from_flags(ClassWeightOptions)
            weights = ClassWeights(FLAGS.class_num, options, FLAGS.random_seed)
        numbers = {name: FLAGS[name].value for name in loss.numbers() if name in FLAGS}
        return Objective(FLAGS.loss, weights, **numbers)

    def training_input(self, step_shard: StepShard) -> TrainingInput:
        """Augmented batches with this worker's share of every step."""
        return TrainingInput(from_flags(InputOptions), from_flags(Augmentation), step_shard)

    def evaluation(self, trainer: Trainer, job: Distributed) -> Validation:
        """Evaluates the current weights on --val_dir."""
        limits = FLAGS.class_num, FLAGS.max_bad_records
        held_out = EvaluationImages((), FLAGS.val_dir, *limits, reading=from_flags(ReadOptions))
        how = Preparation(FLAGS.image_size), FLAGS.batch_size, FLAGS.num_preprocess_threads
        measure = LabelMeasure(
            trainer.network,
            trainer.objective.probabilities,
            # Horovod: each worker evaluates its own batches.
            lambda: held_out.batches(*how, job.rank, job.size),
            lambda: make_evaluator(job),  # Horovod: counts are summed over workers, then divided.
        )
        return Validation(measure, trainer.average)


def make_evaluator(job: Distributed) -> MultiLabelEvaluator | SingleLabelEvaluator:
    """The evaluator for the labels of --loss, with the default options of evaluate.py."""
    if LOSSES[FLAGS.loss].single_label:
        return SingleLabelEvaluator(FLAGS.class_num, job)
    options = from_flags(MultiLabelOptions, threshold=0.5)
    return MultiLabelEvaluator(FLAGS.class_num, job, options)


def make_backbone(job: Distributed, **options: Any) -> Any:
    """The network of --backbone, built from the flags; `options` override them."""
    synchronized = FLAGS.sync_batch_norm and job.size > 1
    given = {
        "width": FLAGS.width,
        "data_format": FLAGS.data_format,
        "batch_norm_decay": FLAGS.batch_norm_decay,
        "batch_norm_epsilon": FLAGS.batch_norm_epsilon,
        "compute_dtype": FLAGS.precision,
        "seed": FLAGS.random_seed,
        "freeze_batch_norm": FLAGS.freeze_batch_norm,
        "recompute": FLAGS.recompute,
        "reduce_moments": job.average if synchronized else None,  # Horovod: one batch norm for all.
        "moment_workers": job.size,
    }
    sizes = FLAGS.resnet_size, FLAGS.class_num
    return backbones.find(FLAGS.backbone)(*sizes, **given | options)


def run_options(bn_decay_fraction: float = 0.0) -> RunOptions:
    """The run options of any task, from the flags.

    `bn_decay_fraction` is the fraction of the weight decay applied to batch norm's gamma and beta.
    """
    if FLAGS.epochs and FLAGS["max_iter"].present:
        raise UserError("--epochs and --max_iter both set the length of the run: give only one")
    return from_flags(
        RunOptions,
        distributed=from_flags(DistributedOptions),
        devices=from_flags(DeviceOptions),
        optimizer=from_flags(OptimizerOptions, bn_decay_fraction=bn_decay_fraction),
        steps=from_flags(StepOptions),
        schedule=from_flags(ScheduleOptions),
        loop=from_flags(LoopOptions),
        overview=from_flags(OverviewOptions),
        flags=as_dict,
        flag_file=flag_file,
    )


if __name__ == "__main__":
    script.run(main)
