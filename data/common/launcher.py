"""Rank and world size from the launcher's environment variables."""

import os
from typing import NamedTuple

from data.common.errors import UserError

# Of each launcher the variables of the number of processes, of ours, and of ours on the machine.
# The first launcher found counts: what mpirun starts may inherit the variables of a Slurm step.
# Slurm's are those of a step, which `srun` makes. SLURM_NTASKS and SLURM_PROCID are set in the
# shell of `salloc` and in the script of `sbatch`, too, which are alone.
VARIABLES = {
    "horovodrun": ("HOROVOD_SIZE", "HOROVOD_RANK", "HOROVOD_LOCAL_RANK"),
    "mpirun": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "mpiexec": ("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID"),
    "srun": ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID"),
}


class Process(NamedTuple):
    """Process `rank` of `size`, the `local_rank`-th of its machine; `launcher`: "" when alone."""

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


def _number(name: str) -> int | None:
    text = os.environ.get(name)
    if not text:
        return None
    if not text.isdecimal() or not text.isascii():
        raise UserError(f"{name}={text} is not a whole number; correct it or unset it")
    return int(text)
