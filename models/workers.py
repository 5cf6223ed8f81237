"""Who we are among the training processes, and what they do together.

Under `horovodrun`, `mpirun` or `srun` with more than one process, Horovod joins them; a process
that was started alone runs the same code, and then Horovod need not be installed.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

# The variables by which the launchers say how many processes they started.
SIZE_VARIABLES = ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
# Set by `horovodrun --host-discovery-script`: workers may come and go, even from a single one.
ELASTIC_VARIABLE = "HOROVOD_ELASTIC"


class WorkersError(ValueError):
    """The processes of a job cannot work together, or no longer can."""


@dataclasses.dataclass(frozen=True)
class WorkerOptions:
    """The fields are the flags of the same name.

    `gradient_groups` is over how many all-reduce calls the gradients of a step are spread; 0 makes
    it one a variable, which Horovod fuses as they happen to be ready. How the sum is rounded hangs
    on what is fused, from three workers on, so `deterministic` always makes one group.
    """

    compression: str = "none"
    gradient_groups: int = 4
    deterministic: bool = False
    stall_seconds: int = 60
    stall_shutdown_seconds: int = 900
    commit_steps: int = 10

    def apply(self) -> None:
        """Tells Horovod what it reads from the environment; what is set there already stays."""
        # Horovod: one worker lacks, the others wait: rank 0 logs whom for, and then gives up.
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


class Workers(Protocol):
    """The processes of one job. All of them call each method, in the same order.

    Attributes:
      rank, size: which of how many; in an elastic job they change.
      local_rank: which of those on this machine.
      launched: whether a launcher started this process, so that others may be beside it.
      elastic: whether workers may come and go.
    """

    rank: int
    size: int
    local_rank: int
    launched: bool
    elastic: bool

    def run(self, variables: Iterable[tf.Variable], body: Callable[[], Any]) -> Any:
        """Gives every worker the variables of rank 0, then returns `body()`.

        In an elastic job the variables are given out and `body` begins anew whenever the workers
        have changed.

        Raises:
          WorkersError: a worker is gone, and the job cannot do without.
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


class OneWorker:
    """A process on its own: everything together is what it has."""

    rank = 0
    size = 1
    local_rank = 0
    launched = False
    elastic = False

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


class HorovodWorkers:
    """The processes of a Horovod job; gradients travel over NCCL, MPI or Gloo, as it was built.

    `hvd` is the module `horovod.tensorflow`, which only multi-process jobs need installed.
    """

    launched = True
    elastic = False

    def __init__(self, hvd: Any, options: WorkerOptions) -> None:
        options.apply()
        hvd.init()  # Horovod: connect to the other workers.
        self._hvd, self.options = hvd, options
        self._compression = getattr(hvd.Compression, options.compression)
        self.refresh()

    def refresh(self) -> None:
        """Asks Horovod who we are: at the start, and after workers came or went."""
        hvd = self._hvd
        self.rank, self.size, self.local_rank = hvd.rank(), hvd.size(), hvd.local_rank()

    def run(self, variables: Iterable[tf.Variable], body: Callable[[], Any]) -> Any:
        try:
            # Horovod: every worker starts with what rank 0 has.
            self._hvd.broadcast_variables(list(variables), root_rank=0)
            return body()
        except (tf.errors.OpError, RuntimeError) as error:
            if not is_lost_connection(error):
                raise
            raise WorkersError(
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
    return "Horovod" in type(error).__name__ or "Horovod" in str(error)


def start(options: WorkerOptions) -> Workers:
    """Joins the job that this process was launched in; alone, it is a job of one.

    Raises:
      WorkersError: launched with others, but Horovod is not installed.
    """
    elastic = os.environ.get(ELASTIC_VARIABLE) == "1"
    if not elastic and not any(int(os.environ.get(name) or 1) > 1 for name in SIZE_VARIABLES):
        return OneWorker()
    try:
        import horovod.tensorflow as hvd  # Horovod: only jobs of several processes need it.

        from models.elastic import ElasticWorkers
    except ImportError as error:
        raise WorkersError(
            f"several processes were launched, but Horovod cannot be imported ({error}): "
            "run example/install_horovod.sh"
        ) from error
    return (ElasticWorkers if elastic else HorovodWorkers)(hvd, options)
