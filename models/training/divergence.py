"""Stops a run that diverges before a bad checkpoint is saved."""

from __future__ import annotations

import math

import numpy as np

from data.common.errors import UserError
from models.checkpoints.folder import CheckpointFolder
from models.distributed.base import Distributed
from models.training.trainer import Trainer

# A loss this many times the first one, or 1 if that is larger, does not recover, and changing the
# learning rate does not rescue the weights.
LARGEST_GROWTH = 1e4


class DivergenceCheck:
    """Raises UserError when a run diverges; all workers raise it after the same step."""

    def __init__(
        self, trainer: Trainer, workers: Distributed, checkpoints: CheckpointFolder
    ) -> None:
        self._trainer, self._workers, self._checkpoints = trainer, workers, checkpoints
        self._limit: float | None = None

    def loss(self, loss: float) -> None:
        """Checks the mean loss of all workers in the latest step."""
        if self._limit is None and math.isfinite(loss):
            self._limit = LARGEST_GROWTH * max(loss, 1.0)
        if self._limit is None or not loss <= self._limit:
            raise self._diverged(f"the loss is {loss:.4g} in step")

    def decay_term(self, l2_loss: float) -> None:
        """Checks the decay term of the loss; the weights are the same on all workers."""
        if not math.isfinite(l2_loss):
            raise self._diverged(f"the weight decay's part of the loss is {l2_loss} after step")

    def state(self, ahead: bool = True) -> None:
        """Checks what is about to be saved or evaluated: weights, statistics, momentum, averages.

        Finite weights are not enough: the next step may overflow at any learning rate. So one more
        step is tried at learning rate 0, then undone.

        Args:
          ahead: whether to try the next step, too.
        """
        sound = self._trainer.is_finite() and (not ahead or self._trainer.next_step_is_finite())
        # Horovod: all workers stop if one of them finds it.
        if self._workers.sum(np.array([not sound], np.int64))[0]:
            raise self._diverged("not all values are finite after step")

    def _diverged(self, what: str) -> UserError:
        step, latest = int(self._trainer.global_step.numpy()), self._checkpoints.latest()
        resume = (
            f"resumes {latest}, which is finite" if latest else "starts over: nothing was saved"
        )
        return UserError(
            f"training diverged: {what} {step}; lower --lr or lengthen --warmup, and the same "
            f"command {resume}"
        )
