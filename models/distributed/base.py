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
    """The fields are the flags of the same name.

    `gradient_groups` is the number of all-reduce calls for the gradients of a step; with 0 it is
    one per variable, which Horovod fuses as they become ready. With three workers or more the
    rounding depends on what is fused, so `deterministic` always uses one group.
    """

    compression: str = "none"
    gradient_groups: int = 4
    deterministic: bool = False
    stall_seconds: int = 60
    stall_shutdown_seconds: int = 900
    commit_steps: int = 10

    def apply(self) -> None:
        """Sets the environment variables of Horovod that are not set already."""
        # Horovod: when workers wait for another one, rank 0 logs which, and later ends the job.
        os.environ.setdefault("HOROVOD_STALL_CHECK_TIME_SECONDS", str(self.stall_seconds))
        os.environ.setdefault(
            "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", str(self.stall_shutdown_seconds)
        )
        if self.deterministic:
            os.environ["HOROVOD_DISABLE_GROUP_FUSION"] = "1"
        if not tf.config.list_physical_devices("GPU"):
            # Its thread takes turns with those that compute: at the 1 ms that suits GPUs it costs a
            # fifth of a step (docs/distributed.md).
            os.environ.setdefault("HOROVOD_CYCLE_TIME", "10")


class Distributed(Protocol):
    """The processes of one job. All of them call each method, in the same order.

    Attributes:
      rank, size: number of this process, from 0, and of all; in an elastic job they change.
      local_rank: number of this process among those on this machine.
      launched: whether a launcher started this process, so that others may be next to it.
      elastic: whether workers may come and go.
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
        """Waits until all workers are here."""

    def run(self, variables: Iterable[tf.Variable], body: Callable[[], Any]) -> Any:
        """Gives every worker the variables of rank 0, then returns `body()`.

        In an elastic job it broadcasts and calls `body` again whenever the workers have changed.

        Raises:
          UserError: a worker died, and the job is not elastic.
        """

    def step_done(self) -> None:
        """Called between two steps; in an elastic job this is where `body` may be left."""

    def average_gradients(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Means over the workers, compressed and grouped as asked; usable in `tf.function`."""

    def average(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Exact means over the workers, with a gradient; usable in `tf.function`."""

    def any_positive(self, mask: tf.Tensor) -> tf.Tensor:
        """Logical or over the workers of a bool tensor [C]; usable in `tf.function`."""

    def sum(self, array: np.ndarray) -> np.ndarray:
        """Sum over the workers of a float64 or int64 array, exact for integers."""


class SingleProcess:
    """A single process: sums and means over all workers are its own values."""

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
