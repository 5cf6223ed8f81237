"""Initializes a run: from its latest checkpoint, pretrained weights, or at random."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from data.common import mirror, output_lock
from data.lists.classes import Classes
from models.checkpoints import checkpoint, metadata
from models.checkpoints.folder import CheckpointFolder
from models.distributed.base import Distributed
from models.training.trainer import Trainer

# The flags that determine which variables a checkpoint has.
_FITTING = (
    *("backbone", "resnet_size", "width", "class_num", "loss", "optimizer", "ema_decay"),
    *("trainable", "FixBlock2"),
)
# Horovod: when a job is restarted, its last process may still be exiting.
LINGER_SECONDS = 30


def claim(model_dir: str | Path, log_dir: str | Path, workers: Distributed) -> None:
    """Locks a run's folders against other jobs until it ends; only on rank 0, which writes them.

    Raises:
      UserError: a folder cannot be written, or another job holds it.
    """
    if workers.rank == 0:
        folders = {"model_dir": model_dir, "log_dir": log_dir}
        output_lock.claim_folders(folders, LINGER_SECONDS if workers.launched else 0)
        for folder in folders.values():
            mirror.pull(folder)  # what the previous rank 0 wrote


def restore_or_start(
    trainer: Trainer,
    checkpoints: CheckpointFolder,
    workers: Distributed,
    pretrain_ckpt: str | None = None,
    skip: Sequence[str] = (),
    must_restore: bool = False,
    flags: Mapping[str, Any] | None = None,
) -> None:
    """Restores rank 0's variables from the first of these that exists.

    1. The latest checkpoint of the run's own folder: a resume, of every variable.
    2. `pretrain_ckpt`: the network's variables except those whose names match `skip`.
    3. The initial values.

    `flags` are the current ones; a resume logs those that changed since the checkpoint.

    Raises:
      CheckpointError: a checkpoint does not fit, or there is none and `must_restore`.
    """
    if workers.rank != 0:  # Horovod: `Distributed.run` broadcasts rank 0's variables.
        return
    latest = checkpoints.latest()
    if latest:
        resume(trainer, latest, flags or {})
    elif pretrain_ckpt:
        start_from(trainer, checkpoint.find(pretrain_ckpt), skip)
    elif must_restore:
        raise checkpoint.CheckpointError(
            f"there is no checkpoint in --model_dir {checkpoints.model_dir}, and no --pretrain_ckpt"
        )
    else:
        logging.info("weights from random values: no checkpoint and no --pretrain_ckpt")


def sizes(
    model_dir: str, pretrain_ckpt: str | None, skip: Sequence[str], workers: Distributed
) -> dict[str, int]:
    """Sizes of the network in the checkpoint that a run starts from, by flag; {} without one.

    `resnet_size`, `width`, and `class_num` unless `skip` excludes the logits. All workers call this
    and get what rank 0 finds; {} in an elastic job, where a worker may join alone.
    """
    found = np.zeros(3)
    if workers.elastic:
        return {}
    if workers.rank == 0:
        prefix, has_same_classes = _start(model_dir, pretrain_ckpt, skip)
        if prefix:
            held = checkpoint.describe(prefix)
            found[:] = held.resnet_size, held.width, held.class_num if has_same_classes else 0
    values = workers.sum(found).astype(int).tolist()
    named = zip(("resnet_size", "width", "class_num"), values, strict=True)
    return {name: value for name, value in named if value}


def kept_classes(model_dir: str, pretrain_ckpt: str | None, skip: Sequence[str]) -> Classes | None:
    """The classes kept with the checkpoint that a run starts from, if the run has the same."""
    prefix, has_same_classes = _start(model_dir, pretrain_ckpt, skip)
    return metadata.kept_classes(prefix) if prefix and has_same_classes else None


def _start(
    model_dir: str, pretrain_ckpt: str | None, skip: Sequence[str]
) -> tuple[str | None, bool]:
    """The checkpoint that a run starts from, and whether its classes are the run's."""
    own = CheckpointFolder(model_dir).latest()
    return own or (pretrain_ckpt and checkpoint.find(pretrain_ckpt)), bool(own or not skip)


def resume(trainer: Trainer, prefix: str, flags: Mapping[str, Any]) -> None:
    """Restores a run from its checkpoint `prefix`; `flags` are the current ones.

    Raises:
      CheckpointError: the checkpoint does not fit; names the flags to blame, with both values.
    """
    then = checkpoint.read(prefix).meta().get("flags", {})
    changed = [
        (name, then[name], flags[name])
        for name in flags
        if name in then and then[name] != flags[name]
    ]
    try:
        meta = checkpoint.restore(prefix, trainer.variables_by_name()).meta()
    except checkpoint.OtherTaskError:  # no flag is to blame
        raise
    except checkpoint.CheckpointError as error:
        to_blame = [f"--{n}={then} then, {now} now" for n, then, now in changed if n in _FITTING]
        if not to_blame:
            raise
        raise checkpoint.CheckpointError(
            f"checkpoint {prefix} does not fit: {'; '.join(to_blame)}; use the flags it was trained"
            " with, or another --model_dir with this checkpoint as --pretrain_ckpt"
        ) from error
    _check_finite(trainer, prefix)
    trainer.set_progress(meta.get("progress", {}))
    step = int(trainer.global_step.numpy())
    logging.info("resuming %s at step %d", prefix, step)
    if changed and flags.get("mode") != "val":  # an evaluation does not use them
        listed = ", ".join(f"--{name} {then} -> {now}" for name, then, now in changed)
        logging.info("changed since the checkpoint: %s", listed)


def start_from(trainer: Trainer, prefix: str, skip: Sequence[str]) -> None:
    """Restores only the network's weights; step, momentum and counters start at 0."""
    weights = trainer.network.variables_by_name()
    checkpoint.restore(prefix, weights, (*skip, *checkpoint.TRAINING_STATE))
    _check_finite(trainer, prefix)
    logging.info("weights from %s%s", prefix, f", but not {', '.join(skip)}" if skip else "")


def _check_finite(trainer: Trainer, prefix: str) -> None:
    if not trainer.is_finite():
        raise checkpoint.CheckpointError(
            f"checkpoint {prefix} holds values that are not finite, from a run that diverged: "
            "remove it, and the same command uses the previous one"
        )
