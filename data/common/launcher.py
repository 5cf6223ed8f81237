"""Which of how many processes this is, as the launcher that started it says."""

import os
from typing import NamedTuple

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
    """This process among those that a launcher started with it."""
    for launcher, (size, *ranks) in VARIABLES.items():
        if os.environ.get(size):
            rank, local_rank = (int(os.environ.get(name) or 0) for name in ranks)
            return Process(launcher, rank, int(os.environ[size]), local_rank)
    return Process()
