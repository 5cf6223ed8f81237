"""Rank, world size and collectives of the training processes."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from data.common.sharding import Shard


@dataclasses.dataclass(frozen=True)
class DistributedOptions:
    """Options of the collectives; each field is the flag of the same name.

    Attributes:
      compression: dtype in which gradients are sent, "none" or "fp16".
      gradient_groups: number of all-reduce calls for the gradients of a step; 0: one per variable,
        which Horovod fuses as they become ready.
      deterministic: send all gradients in one group, because with three or more workers the
        rounding depends on which gradients are fused.
      stall_seconds: time until a missing worker is reported; 0: never.
      stall_shutdown_seconds: time until a missing worker ends the job; 0: never.
      commit_steps: steps between in-memory copies of the variables, in an elastic job.
    """

    compression: str = "none"
    gradient_groups: int = 4
    deterministic: bool = False
    stall_seconds: int = 60
    stall_shutdown_seconds: int = 900
    commit_steps: int = 10

    def apply(self) -> None:
        """Sets Horovod's environment variables, except those that the user has set."""
        # Horovod: rank 0 logs which worker the others wait for, and later ends the job.
        os.environ.setdefault("HOROVOD_STALL_CHECK_TIME_SECONDS", str(self.stall_seconds))
        os.environ.setdefault(
            "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", str(self.stall_shutdown_seconds)
        )
        if self.deterministic:
            os.environ["HOROVOD_DISABLE_GROUP_FUSION"] = "1"
        if not tf.config.list_physical_devices("GPU"):
            # Horovod's thread runs on the cores that compute. Waking every 1 ms, the default,
            # which suits GPUs, costs a fifth of a step (docs/distributed.md).
            os.environ.setdefault("HOROVOD_CYCLE_TIME", "10")


class Distributed(Protocol):
    """The workers (processes) of one job. All workers call every method, in the same order.

    Attributes:
      rank: number of this worker, from 0; it may change in an elastic job.
      size: number of workers; it may change in an elastic job.
      local_rank: number of this worker among those on the same machine, from 0.
      launched: whether a launcher started this worker, possibly with others.
      elastic: whether workers may join and leave while the job runs.
    """

    rank: int
    size: int
    local_rank: int
    launched: bool
    elastic: bool

    @property
    def shard(self) -> Shard:
        """Shard `rank` of `size`."""

    def barrier(self) -> None:
        """Waits until all workers have called it."""

    def run(self, variables: Iterable[tf.Variable], body: Callable[[], Any]) -> Any:
        """Copies the variables of rank 0 to all workers, calls `body()`, and returns its result.

        In an elastic job, does all this again whenever workers have joined or left.

        Raises:
          UserError: another worker died, and the job is not elastic.
        """

    def step_done(self) -> None:
        """Must be called in `body` after each step; an elastic job may restart `body` from here."""

    def average_gradients(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Mean of each gradient over the workers, compressed and grouped as the options say.

        Usable in `tf.function`.
        """

    def average(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Mean of each tensor over the workers, without compression; differentiable.

        Usable in `tf.function`.
        """

    def any_positive(self, mask: tf.Tensor) -> tf.Tensor:
        """Logical OR of the workers' masks, bool [C]. Usable in `tf.function`."""

    def sum(self, array: np.ndarray) -> np.ndarray:
        """Sum of the workers' arrays, float64 or int64; exact for integers."""


class SingleProcess:
    """A job of one process: a sum or mean over the workers is its own value."""

    rank = 0
    size = 1
    local_rank = 0
    launched = False
    elastic = False
    shard = Shard()

    def barrier(self) -> None:
        pass

    def run(self, variables: Iterable[tf.Variable], body: Callable[[], Any]) -> Any:
        del variables
        return body()

    def step_done(self) -> None:
        pass

    def average_gradients(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        return list(tensors)

    def average(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        return list(tensors)

    def any_positive(self, mask: tf.Tensor) -> tf.Tensor:
        return mask

    def sum(self, array: np.ndarray) -> np.ndarray:
        return np.asarray(array)
