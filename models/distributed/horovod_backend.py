"""Collectives through Horovod, over NCCL, MPI or Gloo."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from data.common.errors import UserError
from data.common.sharding import Shard
from models.distributed.base import DistributedOptions


class HorovodProcesses:
    """`hvd` is the module `horovod.tensorflow`, which only jobs of several processes need."""

    launched = True
    elastic = False

    def __init__(self, hvd: Any, options: DistributedOptions) -> None:
        options.apply()
        hvd.init()  # Horovod: connect to the other workers.
        self._hvd, self.options = hvd, options
        self._compression = getattr(hvd.Compression, options.compression)
        self.refresh()

    def refresh(self) -> None:
        """Asks Horovod who we are: at the start, and after workers came or went."""
        hvd = self._hvd
        self.rank, self.size, self.local_rank = hvd.rank(), hvd.size(), hvd.local_rank()

    @property
    def shard(self) -> Shard:
        return Shard(self.rank, self.size)

    def barrier(self) -> None:
        self.sum(np.zeros(1))

    def run(self, variables: Iterable[tf.Variable], body: Callable[[], Any]) -> Any:
        try:
            # Horovod: every worker starts with what rank 0 has.
            self._hvd.broadcast_variables(list(variables), root_rank=0)
            return body()
        except (tf.errors.OpError, RuntimeError) as error:
            if not is_lost_connection(error):
                raise
            raise UserError(
                f"worker {self.rank} of {self.size} lost another one, which the launcher names; "
                "started again, the job resumes from its latest checkpoint "
                f"({reason(error)})"
            ) from error

    def step_done(self) -> None:
        pass

    def average_gradients(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        groups = 1 if self.options.deterministic else self.options.gradient_groups
        averaged: dict[int, tf.Tensor] = {}
        for number, members in enumerate(split(tensors, groups)):
            reduced = self._hvd.grouped_allreduce(  # Horovod: one fused all-reduce a group.
                [tensors[member] for member in members],
                op=self._hvd.Average,
                compression=self._compression,
                name=f"gradients_{number}",
            )
            averaged.update(zip(members, reduced, strict=True))
        return [averaged[position] for position in range(len(tensors))]

    def average(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        # Horovod: its gradient is the mean over the workers' gradients.
        return self._hvd.grouped_allreduce(list(tensors), op=self._hvd.Average)

    def any_positive(self, mask: tf.Tensor) -> tf.Tensor:
        votes = self._hvd.allreduce(  # Horovod: one byte a class.
            tf.cast(mask, tf.uint8), op=self._hvd.Max, name="positive_classes"
        )
        return votes > 0

    def sum(self, array: np.ndarray) -> np.ndarray:
        total = self._hvd.allreduce(  # Horovod: totals and counts, divided only afterwards.
            tf.convert_to_tensor(array), op=self._hvd.Sum, name="sum"
        )
        return total.numpy()


def split(tensors: Sequence[tf.Tensor], groups: int) -> list[list[int]]:
    """Positions of `tensors` in `groups` groups of about equal bytes; 0: a group for each.

    From the last to the first, because gradients become ready in this order and a group that is
    complete travels while the rest is still computed.
    """
    backwards = range(len(tensors) - 1, -1, -1)
    if not groups:
        return [[position] for position in backwards]
    sizes = [tensor.shape.num_elements() * tensor.dtype.size for tensor in tensors]
    target, found, before = sum(sizes) / groups, {}, 0
    for position in backwards:
        middle = before + sizes[position] / 2
        found.setdefault(int(middle / target) if target else 0, []).append(position)
        before += sizes[position]
    return list(found.values())


def reason(error: BaseException) -> str:
    """The first of Horovod's own words in an error, without TensorFlow's around them."""
    lines = str(error).splitlines()
    return next((line for line in lines if "Horovod" in line), lines[0] if lines else "")[:200]


def is_lost_connection(error: BaseException) -> bool:
    """Whether Horovod failed because another worker did."""
    # Of an operation that was under way, Gloo names its source file alone.
    reported = f"{type(error).__name__} {error}"
    return "Horovod" in reported or "/gloo/" in reported
