"""Collectives through Horovod, over NCCL, MPI or Gloo."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from data.common.errors import UserError
from data.common.sharding import Shard
from models.distributed.base import DistributedOptions


class HorovodProcesses:
    """The workers of a job that `horovodrun`, `mpirun` or `srun` started.

    Args:
      hvd: the module `horovod.tensorflow`; passed in, because a single process runs without it.
    """

    launched = True
    elastic = False

    def __init__(self, hvd: Any, options: DistributedOptions) -> None:
        options.apply()
        hvd.init()  # Horovod: connects to the other workers.
        self._hvd, self.options = hvd, options
        self._compression = getattr(hvd.Compression, options.compression)
        self.refresh()

    def refresh(self) -> None:
        """Reads rank and size from Horovod: at the start, and after workers joined or left."""
        hvd = self._hvd
        self.rank, self.size, self.local_rank = hvd.rank(), hvd.size(), hvd.local_rank()

    @property
    def shard(self) -> Shard:
        return Shard(self.rank, self.size)

    def barrier(self) -> None:
        self.sum(np.zeros(1))

    def run(self, variables: Iterable[tf.Variable], body: Callable[[], Any]) -> Any:
        try:
            # Horovod: every worker starts with the variables of rank 0.
            self._hvd.broadcast_variables(list(variables), root_rank=0)
            return body()
        except (tf.errors.OpError, RuntimeError) as error:
            if not is_lost_connection(error):
                raise
            raise UserError(
                f"worker {self.rank} of {self.size} lost the connection to another worker, which "
                "the launcher names; start the job again to resume from its latest checkpoint "
                f"({reason(error)})"
            ) from error

    def step_done(self) -> None:
        pass

    def average_gradients(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        groups = 1 if self.options.deterministic else self.options.gradient_groups
        averaged: dict[int, tf.Tensor] = {}
        for number, members in enumerate(groups_of_equal_bytes(tensors, groups)):
            reduced = self._hvd.grouped_allreduce(  # Horovod: one all-reduce per group.
                [tensors[member] for member in members],
                op=self._hvd.Average,
                compression=self._compression,
                name=f"gradients_{number}",
            )
            averaged.update(zip(members, reduced, strict=True))
        return [averaged[index] for index in range(len(tensors))]

    def average(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        # Horovod: its gradient is the mean over the workers' gradients.
        return self._hvd.grouped_allreduce(list(tensors), op=self._hvd.Average)

    def any_positive(self, mask: tf.Tensor) -> tf.Tensor:
        votes = self._hvd.allreduce(  # Horovod: one byte per class.
            tf.cast(mask, tf.uint8), op=self._hvd.Max, name="positive_classes"
        )
        return votes > 0

    def sum(self, array: np.ndarray) -> np.ndarray:
        total = self._hvd.allreduce(  # Horovod: adds totals and counts; the caller divides.
            tf.convert_to_tensor(array), op=self._hvd.Sum, name="sum"
        )
        return total.numpy()


def groups_of_equal_bytes(tensors: Sequence[tf.Tensor], count: int) -> list[list[int]]:
    """Divides tensors into up to `count` groups of about equal bytes; 0: a group per tensor.

    The groups hold the tensors' indices, from the last to the first: the gradients of the last
    layers are ready first, so their group is sent while the others are still computed.
    """
    backwards = range(len(tensors) - 1, -1, -1)
    if not count:
        return [[index] for index in backwards]
    sizes = [tensor.shape.num_elements() * tensor.dtype.size for tensor in tensors]
    target, groups, before = sum(sizes) / count, {}, 0
    for index in backwards:
        middle = before + sizes[index] / 2
        groups.setdefault(int(middle / target) if target else 0, []).append(index)
        before += sizes[index]
    return list(groups.values())


def reason(error: BaseException) -> str:
    """The line of an error that names Horovod, else its first line; up to 200 characters."""
    lines = str(error).splitlines()
    return next((line for line in lines if "Horovod" in line), lines[0] if lines else "")[:200]


def is_lost_connection(error: BaseException) -> bool:
    """Whether this is the error that Horovod raises when another worker has died."""
    # Gloo's errors do not name Horovod when an operation was running, only Gloo's source file.
    reported = f"{type(error).__name__} {error}"
    return "Horovod" in reported or "/gloo/" in reported
