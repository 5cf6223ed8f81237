"""Where a run's variables come from."""

from collections.abc import Sequence

import numpy as np
from absl import logging

from models.checkpoints import checkpoint
from models.checkpoints.checkpoint import CheckpointFolder
from models.training.trainer import Trainer
from models.workers.base import Workers


def restore_or_start(
    trainer: Trainer,
    checkpoints: CheckpointFolder,
    workers: Workers,
    pretrain_ckpt: str | None = None,
    skip: Sequence[str] = (),
    must_restore: bool = False,
) -> None:
    """Gives rank 0 its variables, from the first of these that exists.

    1. The latest checkpoint of the run's own folder: a resume, of every variable.
    2. `pretrain_ckpt`: the network's variables but those whose names match `skip`.
    3. The initial values.

    Raises:
      CheckpointError: a checkpoint does not fit, or there is none and `must_restore`.
    """
    if workers.rank != 0:  # Horovod: `Workers.run` gives the others what rank 0 has.
        return
    latest = checkpoints.latest()
    if latest:
        resume(trainer, latest)
    elif pretrain_ckpt:
        start_from(trainer, checkpoint.find(pretrain_ckpt), skip)
    elif must_restore:
        raise checkpoint.CheckpointError(
            f"there is no checkpoint in --model_dir {checkpoints.model_dir}, and no --pretrain_ckpt"
        )


def sizes(
    model_dir: str, pretrain_ckpt: str | None, skip: Sequence[str], workers: Workers
) -> dict[str, int]:
    """What the checkpoint that a run starts from says of its network, by flag; {} without one.

    `resnet_size`, and `class_num` unless `skip` leaves the logits out. All workers call this and
    get what rank 0 finds; in an elastic job, where a worker may come alone, it is {}.
    """
    found = np.zeros(2)
    if workers.elastic:
        return {}
    if workers.rank == 0:
        own = CheckpointFolder(model_dir).latest()
        prefix = own or (pretrain_ckpt and checkpoint.find(pretrain_ckpt))
        if prefix:
            described = checkpoint.describe(prefix)
            found[:] = described.resnet_size, described.class_num if own or not skip else 0
    resnet_size, class_num = workers.sum(found).astype(int).tolist()
    named = {"resnet_size": resnet_size, "class_num": class_num}
    return {name: value for name, value in named.items() if value}


def resume(trainer: Trainer, prefix: str) -> None:
    """Takes up a run where its checkpoint left it."""
    meta = checkpoint.restore(prefix, trainer.variables_by_name()).meta()
    _check_finite(trainer, prefix)
    trainer.set_progress(meta.get("progress", {}))
    logging.info("resuming %s at step %d", prefix, int(trainer.global_step.numpy()))


def start_from(trainer: Trainer, prefix: str, skip: Sequence[str]) -> None:
    """Takes the network's weights alone; the step, momentum and counters begin anew."""
    weights = trainer.network.variables_by_name()
    checkpoint.restore(prefix, weights, (*skip, *checkpoint.TRAINING_STATE))
    _check_finite(trainer, prefix)
    logging.info("weights from %s%s", prefix, f", but not {', '.join(skip)}" if skip else "")


def _check_finite(trainer: Trainer, prefix: str) -> None:
    if not trainer.is_finite():
        raise checkpoint.CheckpointError(
            f"checkpoint {prefix} holds values that are not finite, of a run that diverged: "
            "remove it, and the same command takes the one before"
        )
