"""Who we are among the training processes, and what they do together.

Under `horovodrun`, `mpirun` or `srun` with more than one process, Horovod joins them; a process
that was started alone runs the same code, and then Horovod need not be installed.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf

# The variables by which the launchers say how many processes they started.
SIZE_VARIABLES = ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


class WorkersError(ValueError):
    """The processes of a job cannot work together."""


class Workers(Protocol):
    """The processes of one job. Every method but `rank` and `size` is called by all of them."""

    rank: int
    size: int
    local_rank: int

    def average(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Means over the workers, tensor by tensor; usable inside `tf.function`."""

    def any_positive(self, mask: tf.Tensor) -> tf.Tensor:
        """Logical or over the workers of a bool tensor [C]; usable inside `tf.function`."""

    def sum(self, array: np.ndarray) -> np.ndarray:
        """Sum over the workers of a float64 or int64 array, exact for integers."""

    def broadcast(self, variables: Iterable[tf.Variable]) -> None:
        """Gives every worker the values of rank 0."""


class OneWorker:
    """A process on its own: everything together is what it has."""

    rank = 0
    size = 1
    local_rank = 0

    def average(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        return list(tensors)

    def any_positive(self, mask: tf.Tensor) -> tf.Tensor:
        return mask

    def sum(self, array: np.ndarray) -> np.ndarray:
        return np.asarray(array)

    def broadcast(self, variables: Iterable[tf.Variable]) -> None:
        del variables


class HorovodWorkers:
    """The processes of a Horovod job; gradients travel over NCCL, MPI or Gloo, as it was built.

    Args:
      compression: "none" or "fp16": the type in which gradients travel.
      groups: all-reduce calls that the gradients of a step are spread over; 0 lets Horovod fuse.
    """

    def __init__(self, compression: str = "none", groups: int = 0) -> None:
        import horovod.tensorflow as hvd  # Horovod: only multi-process jobs need it installed.

        hvd.init()  # Horovod: connect to the other workers.
        self._hvd = hvd
        self._compression = getattr(hvd.Compression, compression)
        self._groups = groups
        self.rank, self.size, self.local_rank = hvd.rank(), hvd.size(), hvd.local_rank()

    def average(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        tensors = list(tensors)
        per_group = -(-len(tensors) // self._groups) if self._groups else len(tensors)
        averaged: list[tf.Tensor] = []
        for start in range(0, len(tensors), max(per_group, 1)):
            averaged += self._hvd.grouped_allreduce(  # Horovod: one fused all-reduce a group.
                tensors[start : start + per_group],
                op=self._hvd.Average,
                compression=self._compression,
            )
        return averaged

    def any_positive(self, mask: tf.Tensor) -> tf.Tensor:
        votes = self._hvd.allreduce(  # Horovod: one byte a class.
            tf.cast(mask, tf.uint8), op=self._hvd.Max, name="positive_classes"
        )
        return votes > 0

    def sum(self, array: np.ndarray) -> np.ndarray:
        total = self._hvd.allreduce(  # Horovod: totals and counts, divided only afterwards.
            tf.convert_to_tensor(array), op=self._hvd.Sum
        )
        return total.numpy()

    def broadcast(self, variables: Iterable[tf.Variable]) -> None:
        self._hvd.broadcast_variables(list(variables), root_rank=0)  # Horovod: start alike.


def start(compression: str = "none", groups: int = 0) -> Workers:
    """Joins the job that this process was launched in; alone, it is a job of one.

    Raises:
      WorkersError: launched with others, but Horovod is not installed.
    """
    if not any(int(os.environ.get(name) or 1) > 1 for name in SIZE_VARIABLES):
        return OneWorker()
    try:
        return HorovodWorkers(compression, groups)
    except ImportError as error:
        raise WorkersError(
            f"several processes were launched, but Horovod cannot be imported ({error}): "
            "run example/install_horovod.sh"
        ) from error
