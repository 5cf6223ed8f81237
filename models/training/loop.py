"""The training loop that `train.py` and `finetune.py` share: step, log, evaluate, checkpoint."""

import contextlib
import dataclasses
import itertools
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data.common.progress import Progress
from models.checkpoints.folder import CheckpointFolder
from models.distributed.base import Distributed
from models.metrics import definitions
from models.training import overview, resume, tracker
from models.training.divergence import DivergenceCheck
from models.training.early_stopping import EarlyStopping
from models.training.metric_writer import Meter, MetricWriter, clock, peak_memory_bytes, reported
from models.training.trainer import Trainer

# Environment variable: path of the file that the launcher creates to ask workers to stop.
STOP_FILE_VARIABLE = "ML_IMAGES_STOP_FILE"


@dataclasses.dataclass(frozen=True)
class LoopOptions:
    """Length and intervals in steps, and the logs; the fields are the flags of the same name."""

    max_iter: int
    epochs: float = 0.0
    log_interval: int = 10
    prof_interval: int = 10
    eval_interval: int = 0
    snapshot: int = 4400
    stall_seconds: int = 60
    log_dir: str = "./out/log/"
    tracker: str | None = None

    def __post_init__(self) -> None:
        """Raises UserError if the tracker is not installed."""
        tracker.check(self.tracker)

    def in_steps(self, records: int, global_batch: int) -> "LoopOptions":
        """The same options, with `max_iter` computed from `epochs` unless that is 0."""
        steps = max(1, math.ceil(self.epochs * records / global_batch))
        return dataclasses.replace(self, max_iter=steps) if self.epochs else self

    def writer(self, rank: int, step: int, evaluated: bool, flags: Any) -> MetricWriter:
        """The log writer of a process, silent except on rank 0; see `MetricWriter`."""
        log_dir = None if rank else self.log_dir
        return MetricWriter(log_dir, step, evaluated, flags, self.tracker)

    def is_evaluated(self, step: int) -> bool:
        """Whether the weights after `step` steps are to be evaluated."""
        return self.is_due(step, self.eval_interval)

    def is_due(self, step: int, interval: int) -> bool:
        """Whether something is due after `step` steps: each `interval`, if any, and at the end."""
        return step == self.max_iter or (interval > 0 and step % interval == 0)


class Interrupt:
    """Turns SIGTERM and Ctrl-C into a stop request that the loop checks between steps.

    The launcher's stop file is a stop request, too: horovodrun and mpirun kill their processes
    seconds after a signal, so example/train_distributed.sh creates this file instead of passing
    the signal on.
    """

    def __init__(self, numbers: Sequence[int] = (signal.SIGTERM, signal.SIGINT)) -> None:
        self._signal, self._stop_file = 0, os.environ.get(STOP_FILE_VARIABLE)
        for number in numbers:
            signal.signal(number, self._request)

    def _request(self, number: int, frame: Any) -> None:
        del frame
        self._signal = number
        signal.signal(number, signal.SIG_DFL)  # A second one ends the process at once.

    def received(self) -> int:
        """The signal received so far, SIGTERM for the stop file; 0: none."""
        if not self._signal and self._stop_file and os.path.exists(self._stop_file):
            self._signal = signal.SIGTERM
        return self._signal


def train(
    trainer: Trainer,
    batches: Iterator[Any],
    schedule: Callable[[int], float],
    checkpoints: CheckpointFolder,
    options: LoopOptions,
    workers: Distributed,
    evaluate: Callable[[], Mapping[str, float]] | None = None,
    meta: Mapping[str, Any] | None = None,
    step_shard: Any | None = None,
    best: EarlyStopping | None = None,
) -> int:
    """Trains from the trainer's step to `max_iter`; a resumed run continues as if uninterrupted.

    Args:
      batches: endless micro-batches (`data.input.pipeline.Batch`) from the trainer's position on.
      evaluate: returns the metrics of the current weights by name; called by all workers.
      meta: flags and versions, stored next to each checkpoint.
      step_shard: this worker's `StepShard`; None: one micro-batch per worker and step.
      best: keeps the best evaluated checkpoint, and may stop the run early.

    Returns 0, or, after saving a checkpoint, 128 + the number of the signal that stopped the run.

    Raises:
      UserError: training diverged; the last checkpoint was saved before that.
    """
    # Horovod: an elastic job uses SIGTERM to end a worker that it no longer needs.
    interrupt = Interrupt(() if workers.elastic else (signal.SIGTERM, signal.SIGINT))
    # Horovod: rank 0 of an elastic job may be another process now.
    resume.claim(checkpoints.model_dir, options.log_dir, workers)
    count, total = (step_shard.count, step_shard.total) if step_shard else (1, workers.size)
    step, meta, stop = int(trainer.global_step.numpy()), meta or {}, 0
    was_evaluated = step in (0, int(trainer.evaluated_step.numpy()))
    writer = options.writer(workers.rank, step, was_evaluated, meta.get("flags"))
    if evaluate and options.is_evaluated(step) and not was_evaluated:
        _evaluate(writer, trainer, evaluate, best, workers, meta)
        save(trainer, checkpoints, workers, meta, tensors=False)
    check = DivergenceCheck(trainer, workers, checkpoints)
    meter = Meter(options.prof_interval, _bar(step, options) if workers.rank == 0 else None)
    batches = _watched(batches, meter, workers.rank, options.stall_seconds, writer, trainer)
    with contextlib.closing(meter):
        while step < options.max_iter and not stop and not (best and best.should_stop):
            learning_rate, position = schedule(step), int(trainer.position.numpy())
            with reported(f"worker {workers.rank} has been in step {step}", options.stall_seconds):
                loss = trainer.step(itertools.islice(batches, count), learning_rate, total)
                loss, stop = all_reduce_loss_and_stop(float(loss), interrupt.received(), workers)
            meter.step_done(int(trainer.position.numpy()) - position, loss)
            overview.log_pace(meter, options.max_iter - step - 1, workers.rank)
            check.loss(loss)
            step += 1
            if options.is_due(step, options.log_interval):
                l2_loss = float(trainer.optimizer.l2_loss())
                check.decay_term(l2_loss)
                _log(writer, trainer, options.max_iter, (loss, l2_loss), learning_rate, meter)
            saves = stop or options.is_due(step, options.snapshot)
            # Not after a signal, whose sender does not wait: the resumed run evaluates this step.
            evaluates = evaluate and not stop and options.is_evaluated(step)
            if evaluates or saves:
                trainer.average_statistics()  # Horovod: rank 0 saves the mean of all workers.
                check.state(ahead=saves)
                writer.push()  # before the checkpoint that relies on it
            if saves:
                save(trainer, checkpoints, workers, meta)
            if evaluates:
                _evaluate(writer, trainer, evaluate, best, workers, meta)
                if saves or (best and best.should_stop):
                    save(trainer, checkpoints, workers, meta, tensors=not saves)
            workers.step_done()  # Horovod: workers of an elastic job may change now.
            meter.restart()
    return _end(writer, stop, step, checkpoints)


def _bar(step: int, options: LoopOptions) -> Progress:
    return Progress("training", options.max_iter, "step", step, lines=False)


def _watched(
    batches: Iterator[Any],
    meter: Meter,
    rank: int,
    stall_seconds: int,
    writer: MetricWriter,
    trainer: Trainer,
) -> Iterator[Any]:
    """Yields the batches, measures the wait for each, and warns if it exceeds `stall_seconds`.

    Logs the objective's preview of the run's first batch.
    """
    for number in itertools.count():
        start = time.perf_counter()
        with reported(f"worker {rank} has been waiting for its input", stall_seconds):
            batch = next(batches)
        meter.waited(time.perf_counter() - start)
        if number == rank == writer.start_step == 0:
            writer.images(0, trainer.objective.preview(batch))
        yield batch


def _end(writer: MetricWriter, stop: int, step: int, checkpoints: CheckpointFolder) -> int:
    """Closes the log of a run that finished or was stopped by signal `stop`; the exit code."""
    if stop:
        writer.log(
            "%s: stopped after step %d and saved %s; the same command continues from there",
            *(signal.Signals(stop).name, step, checkpoints.latest()),
        )
    else:
        writer.log("trained to step %d: %s", step, checkpoints.latest())
    writer.log("peak memory %.2f GiB", peak_memory_bytes() / 2**30)
    writer.close()
    return 128 + stop if stop else 0


def save(
    trainer: Trainer,
    checkpoints: CheckpointFolder,
    workers: Distributed,
    meta: Mapping[str, Any],
    tensors: bool = True,
) -> None:
    """Saves a checkpoint of the trainer's step, or only its JSON if `tensors` is False.

    All workers call this, and rank 0 writes.
    """
    if workers.rank == 0:
        progress = {name: v.numpy().item() for name, v in trainer.progress().items()}
        step, meta = int(trainer.global_step.numpy()), {**meta, "progress": progress}
        if tensors:
            checkpoints.save(step, trainer.variables_by_name(), meta)
        else:
            checkpoints.save_meta(step, meta)
    # Horovod: wait for rank 0, because a worker that exits would end the job while rank 0 writes.
    workers.sum(np.zeros(1))


def all_reduce_loss_and_stop(
    loss: float, signal_number: int, workers: Distributed
) -> tuple[float, int]:
    """The mean loss of all workers, and a signal that any of them received (0: none)."""
    # Horovod: all workers stop after the same step, even if only one of them got the signal.
    received = np.arange(1, signal.NSIG) == signal_number
    total, *votes = workers.sum(np.array([loss, *received], np.float64))
    return float(total / workers.size), int(np.argmax(votes)) + 1 if any(votes) else 0


def _log(
    writer: MetricWriter,
    trainer: Trainer,
    max_iter: int,
    losses: tuple[float, float],
    learning_rate: float,
    meter: Meter,
) -> None:
    """Logs the last step; `losses` are the mean loss of all workers and the decay term."""
    step, (loss, l2_loss), speed = int(trainer.global_step.numpy()), losses, meter.speed()
    values = {"loss": loss, "l2_loss": l2_loss, "rate": learning_rate, **speed}
    values |= {f"loss_{name}": float(part) for name, part in trainer.loss_parts.items()}
    writer.scalars(step, "train", values)
    writer.log(
        "step %d/%d  loss %.4f + l2 %.4f  rate %.5g  %.1f images/s  waiting %.0f%%  left %s",
        step,
        max_iter,
        loss,
        l2_loss,
        learning_rate,
        speed["images_per_second"],
        100 * speed["waiting"],
        clock((max_iter - step) * speed["step_seconds"]),
    )
    writer.push(always=False)


def _evaluate(
    writer: MetricWriter,
    trainer: Trainer,
    evaluate: Callable[[], Mapping[str, float]],
    best: EarlyStopping | None,
    workers: Distributed,
    meta: Mapping[str, Any],
) -> None:
    """Evaluates the current weights, logs the metrics, and saves the weights if they are best."""
    step, metrics = int(trainer.global_step.numpy()), evaluate()
    writer.scalars(step, "val", metrics)
    # training.jsonl gets all metrics, the console only headline metrics.
    shown = {n: x for n, x in metrics.items() if (found := definitions.find(n)) and found.headline}
    writer.log(
        "step %d  val  %s",
        step,
        "  ".join(f"{name} {x:.4f}" for name, x in (shown or metrics).items()),
    )
    writer.push()
    is_best = best and best.observe(metrics)
    trainer.evaluated_step.assign(step)
    if is_best:
        save(trainer, best.checkpoints, workers, meta)
