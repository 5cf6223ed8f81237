"""Runs any task: joins the workers, restores or initializes, then trains or evaluates.

    task: network, objective, input, evaluation -> Trainer -> loop.train

train.py and finetune.py use it for image labels, detect.py for objects, segment.py for pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from absl import logging

from data.common.errors import UserError
from data.common.files import atomic_write
from data.common.sharding import StepOptions, StepShard, arithmetic, step_shard_of
from data.lists.classes import Classes
from models.checkpoints.checkpoint import versions
from models.checkpoints.folder import CheckpointFolder
from models.devices import DeviceOptions
from models.distributed import launch
from models.distributed.base import Distributed, DistributedOptions
from models.training import loop, overview, resume
from models.training.early_stopping import EarlyStopping
from models.training.objectives import Mixup
from models.training.optimizers import Optimizer, OptimizerOptions, WeightAverage
from models.training.schedules import ScheduleOptions, make_schedule
from models.training.trainer import Trainer

FLAG_FILE = "flags.txt"
"""In the log folder: the flags of the run, for --flagfile."""


class Input(Protocol):
    """Training input: `records` per epoch, and endless micro-batches from a sample index on."""

    records: int

    def batches(self, start: int = 0) -> Iterator[Any]: ...


class Evaluation(Protocol):
    """Measures the current weights; all workers call it, and metrics cover all their images."""

    def __call__(self) -> dict[str, float]: ...

    def names(self) -> list[str]:
        """The names of the metrics, before anything is measured."""

    def show(self, rank: int, names: Sequence[str]) -> None:
        """Prints the metrics on rank 0, overall and per class; `names` are the class names."""


class Task(Protocol):
    """What a run trains.

    Attributes:
      skip: name patterns of the variables that are not restored from `pretrain_ckpt`.
      read_classes: reads `dictionary`.
    """

    skip: Sequence[str]
    read_classes: Callable[[str], Classes]

    def trains(self, name: str) -> bool:
        """Whether the variable with this checkpoint name is trained."""

    def network(self, job: Distributed, sizes: Mapping[str, int]) -> Any:
        """The network with initial values; `sizes`: those of the checkpoint it starts from."""

    def image_sizes(self) -> str:
        """The image sizes as text, for the log."""

    def next_commands(self) -> Sequence[str]:
        """Commands to run next with the checkpoint; `{model_dir}` stands for its folder."""

    def objective(self) -> Any:
        """See `Trainer`."""

    def training_input(self, step_shard: StepShard) -> Input:
        """The input for this worker's part of every step."""

    def evaluation(self, trainer: Trainer, job: Distributed) -> Evaluation:
        """The evaluation on `val_dir`."""


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Options of a run of any task; plain fields are the flags of the same name.

    `flags` returns the flags to record next to each checkpoint, `flag_file` the text of FLAG_FILE.
    """

    mode: str
    restore: bool
    pretrain_ckpt: str | None
    model_dir: str
    max_to_keep: int
    best_metric: str | None
    patience: int
    val_dir: str | None
    dictionary: str | None
    ema_decay: float
    sync_batch_norm: bool
    distributed: DistributedOptions
    devices: DeviceOptions
    optimizer: OptimizerOptions
    steps: StepOptions
    schedule: ScheduleOptions
    loop: loop.LoopOptions
    overview: overview.OverviewOptions
    flags: Callable[[], dict[str, Any]]
    flag_file: Callable[[], str]
    mixup_alpha: float = 0.0


def fit(task: Task, options: RunOptions) -> int:
    """Trains, or evaluates with `mode` val; returns the exit code. Raises UserError."""
    if options.mode not in ("train", "val"):
        raise UserError(f"--mode={options.mode} is for detect.py and segment.py")
    job = launch.start(options.distributed)  # Horovod: join the other processes.
    options.devices.apply(job.local_rank, job.launched)  # Horovod: one GPU per process.
    measures = options.mode == "val"  # Restores every variable, or fails.
    skip, must_restore = () if measures else task.skip, measures or options.restore
    if not measures:
        resume.claim(options.model_dir, options.loop.log_dir, job)
    sizes = resume.sizes(options.model_dir, options.pretrain_ckpt, skip, job)
    network, objective = task.network(job, sizes), task.objective()
    trainable = {name: v for name, v in network.trainable_by_name().items() if task.trains(name)}
    optimizer = Optimizer(trainable, options.optimizer)
    weights = network.variables_by_name()
    average = WeightAverage(weights, options.ema_decay) if options.ema_decay else None
    mixup = None
    if options.mixup_alpha:
        mixup = Mixup(options.mixup_alpha, options.devices.random_seed, job.rank)
    checkpoints, best = CheckpointFolder(options.model_dir, options.max_to_keep), _best(options)
    trainer = Trainer(network, objective, optimizer, job, average, mixup, best and best.progress())
    start = options.pretrain_ckpt, skip, must_restore, options.flags()
    resume.restore_or_start(trainer, checkpoints, job, *start)
    classes = None
    if options.dictionary:
        classes = task.read_classes(options.dictionary)
        classes.check_number(network.class_num, options.dictionary)
    variables = {**trainer.variables_by_name(), **trainer.progress()}
    run = _Run(task, options, trainer, job, checkpoints, best, classes)
    # Horovod: broadcasts rank 0's variables now, and again when workers of an elastic job change.
    return job.run(variables.values(), run)


@dataclasses.dataclass(frozen=True)
class _Run:
    """Trains or evaluates from the trainer's step on, with the current workers."""

    task: Task
    options: RunOptions
    trainer: Trainer
    job: Distributed
    checkpoints: CheckpointFolder
    best: EarlyStopping | None
    classes: Classes | None

    def __call__(self) -> int:
        options, trainer, job = self.options, self.trainer, self.job
        evaluate = None
        if options.val_dir is not None:
            evaluate = self.task.evaluation(trainer, job)
        if options.mode == "val":
            if evaluate is None:
                raise UserError("--mode=val needs --val_dir")
            known = self._classes() or Classes.of_number(trainer.network.class_num)
            evaluate.show(job.rank, known.names)
            return 0
        if self.best:
            self.best.check(evaluate.names())
        # Horovod: each worker trains on its own part of every step.
        step_shard = step_shard_of(options.steps, job.shard, job.elastic, options.sync_batch_norm)
        source = self.task.training_input(step_shard)
        in_steps = options.loop.in_steps(source.records, step_shard.global_batch)
        steps = in_steps.max_iter
        schedule = make_schedule(options.schedule, steps, step_shard.global_batch)
        if job.rank == 0:
            planned = arithmetic(step_shard, job.size, source.records, steps)
            sizes = self.task.image_sizes()
            atomic_write(Path(options.loop.log_dir) / FLAG_FILE, options.flag_file())
            overview.show(trainer.network, sizes, planned, schedule, options.overview)
            if int(trainer.global_step.numpy()) >= steps:
                logging.info("the run is complete; a larger --max_iter or --epochs continues it")
        code = loop.train(
            trainer,
            source.batches(int(trainer.position.numpy())),
            schedule,
            self.checkpoints,
            in_steps,
            job,
            evaluate,
            self._meta(),
            step_shard,
            self.best,
        )
        if job.rank == 0 and not code:
            overview.show_next(self.task.next_commands(), options.overview)
        return code

    def _meta(self) -> dict[str, Any]:
        """What rank 0 writes next to each checkpoint, apart from the progress."""
        classes = self._classes()
        meta = {"flags": self.options.flags(), "versions": versions(), "workers": self.job.size}
        return meta | ({"classes": classes.section()} if classes else {})

    def _classes(self) -> Classes | None:
        """The run's classes: from --dictionary, else, on rank 0, those kept with its checkpoint."""
        if self.job.rank != 0 or self.classes:
            return self.classes
        start = self.options.model_dir, self.options.pretrain_ckpt, self.task.skip
        return resume.kept_classes(*start)


def _best(options: RunOptions) -> EarlyStopping | None:
    """Keeps the best checkpoint in best/ below `model_dir`; None without a metric."""
    if not options.best_metric:
        return None
    if not options.val_dir:
        raise UserError(f"--best_metric={options.best_metric} needs --val_dir")
    folder = CheckpointFolder(Path(options.model_dir) / "best", max_to_keep=1)
    return EarlyStopping(options.best_metric, options.patience, folder)
