"""Which kind of workers this process belongs to.

Under `horovodrun`, `mpirun` or `srun` with more than one process, Horovod joins them; a process
that was started alone runs the same code, and then Horovod need not be installed.
"""

import os

from models.workers.base import OneWorker, WorkerOptions, Workers, WorkersError

# The variables by which the launchers say how many processes they started.
SIZE_VARIABLES = ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
# Set by `horovodrun --host-discovery-script`: workers may come and go, even from a single one.
ELASTIC_VARIABLE = "HOROVOD_ELASTIC"


def several_processes() -> bool:
    """Whether a launcher started others beside this process."""
    return any(int(os.environ.get(name) or 1) > 1 for name in SIZE_VARIABLES)


def start(options: WorkerOptions) -> Workers:
    """Joins the job that this process was launched in; alone, it is a job of one.

    Raises:
      WorkersError: launched with others, but Horovod is not installed.
    """
    elastic = os.environ.get(ELASTIC_VARIABLE) == "1"
    if not elastic and not several_processes():
        return OneWorker()
    try:
        import horovod.tensorflow as hvd  # Horovod: only jobs of several processes need it.

        from models.workers.elastic import ElasticWorkers
        from models.workers.horovod_workers import HorovodWorkers
    except ImportError as error:
        raise WorkersError(
            f"several processes were launched, but Horovod cannot be imported ({error}): "
            "run example/install_horovod.sh"
        ) from error
    return (ElasticWorkers if elastic else HorovodWorkers)(hvd, options)
