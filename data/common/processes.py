"""This process among those of a job: rank, size, local rank, and a barrier."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from data.common.errors import UserError
from data.common.sharding import Shard

# Each launcher's variables for the size, rank and local rank. The first launcher found is used:
# processes that mpirun starts may inherit the variables of a Slurm step. Slurm's size is that of a
# step, which `srun` makes: the shell of `salloc` and the script of `sbatch` also have SLURM_NTASKS
# and SLURM_PROCID, but run as a single process.
VARIABLES = {
    "horovodrun": ("HOROVOD_SIZE", "HOROVOD_RANK", "HOROVOD_LOCAL_RANK"),
    "mpirun": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "mpiexec": ("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID"),
    "srun": ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID"),
}
# Set by `horovodrun --host-discovery-script`: workers may come and go; there may be just one.
ELASTIC_VARIABLE = "HOROVOD_ELASTIC"

_MPI_LAUNCHERS = ("mpirun", "mpiexec")

_mpi: Any = None  # MPI's communicator, once MPI joins the processes


class Process(NamedTuple):
    """Process `rank` of `size`, the `local_rank`-th on its machine; `launcher`: "" if alone."""

    launcher: str = ""
    rank: int = 0
    size: int = 1
    local_rank: int = 0


def this_process() -> Process:
    """This process among those that a launcher started with it.

    Raises:
        UserError: a variable is not a number, or the rank is missing or not below the size.
    """
    for launcher, (size_name, rank_name, local_name) in VARIABLES.items():
        size = _number(size_name)
        if size is None:
            continue
        rank = _number(rank_name)
        if rank is None and size > 1:
            raise UserError(
                f"{size_name}={size} says that {launcher} started this process, but {rank_name} is"
                f" not set: start it with {launcher}, or unset {size_name}"
            )
        if (rank or 0) >= size:
            raise UserError(f"{rank_name}={rank} is not below {size_name}={size}")
        return Process(launcher, rank or 0, size, _number(local_name) or 0)
    return Process()


def is_elastic() -> bool:
    """Whether the number of processes may change while they run."""
    return os.environ.get(ELASTIC_VARIABLE) == "1"


class ProcessGroup(NamedTuple):
    """Processes that share work. Without a barrier they do not communicate."""

    shard: Shard = Shard()
    barrier: Callable[[], object] | None = None

    @property
    def collects(self) -> bool:
        """Whether this process combines the results of all shards after `wait`."""
        return self.shard.count == 1 or (self.barrier is not None and self.shard.index == 0)

    def wait(self) -> None:
        """Waits for all processes, if there is a barrier."""
        if self.barrier:
            self.barrier()

    def report_rest(self) -> None:
        """Says what is left to do if no process waits for the other shards."""
        if self.shard.count > 1 and not self.barrier:
            print(
                f"part {self.shard} is done; once all are, run the same command again,"
                " as a single process and without --part, to combine them"
            )


def process_group(part: str | None = None) -> ProcessGroup:
    """The processes that share our work: `--part i/n`, else as the launcher says, else this one.

    Those that mpirun or mpiexec started are joined by MPI.

    Raises:
        UserError: `part` is not of that form, or MPI does not join what mpirun started.
    """
    global _mpi
    if part:
        return ProcessGroup(Shard.parse(part))
    process = this_process()
    if process.size == 1 or process.launcher not in _MPI_LAUNCHERS:
        return ProcessGroup(Shard(process.rank, process.size))
    try:
        from mpi4py import MPI  # only under mpirun: it starts MPI when imported
    except ImportError as error:
        raise UserError("mpirun needs mpi4py here: pip install mpi4py") from error
    world = MPI.COMM_WORLD
    if world.Get_size() != process.size:
        raise UserError(
            f"{process.launcher} started {process.size} processes, but MPI joins"
            f" {world.Get_size()}: mpi4py uses another MPI; start them with --part 0/"
            f"{process.size} and so on instead"
        )
    _mpi = world
    return ProcessGroup(Shard(world.Get_rank(), world.Get_size()), world.Barrier)


def are_joined() -> bool:
    """Whether other processes wait for this one."""
    return _mpi is not None


def end_all() -> None:
    """Ends all processes that MPI joins, with an error; they would wait for this one forever."""
    if _mpi is not None:
        _mpi.Abort(1)


def _number(name: str) -> int | None:
    text = os.environ.get(name)
    if not text:
        return None
    if not text.isdecimal() or not text.isascii():
        raise UserError(f"{name}={text} is not a whole number; correct it or unset it")
    return int(text)
