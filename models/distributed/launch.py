"""Connects this process to the others of its job.

Horovod connects processes that `horovodrun`, `mpirun` or `srun` started together. A process that
was started alone runs the same code and does not need Horovod.
"""

from data.common.errors import UserError
from data.common.processes import is_elastic, this_process
from models.distributed.base import Distributed, DistributedOptions, SingleProcess


def start(options: DistributedOptions) -> Distributed:
    """Connects to the job that launched this process; one on its own gets a `SingleProcess`.

    Raises:
      UserError: there are other processes, but Horovod is not installed or does not connect them.
    """
    process, elastic = this_process(), is_elastic()
    if not elastic and process.size == 1:
        return SingleProcess()
    try:
        import horovod.tensorflow as hvd  # Horovod: only jobs of several processes need it.

        from models.distributed.elastic import ElasticProcesses
        from models.distributed.horovod_backend import HorovodProcesses
    except ImportError as error:
        raise UserError(
            f"several processes were launched, but Horovod cannot be imported ({error}): "
            "run example/install_horovod.sh"
        ) from error
    if elastic:
        return ElasticProcesses(hvd, options)
    workers = HorovodProcesses(hvd, options)
    if workers.size != process.size:
        raise UserError(
            f"{process.launcher} started {process.size} processes, but Horovod connects "
            f"{workers.size}: under srun, give --mpi=pmix, or the entry of srun --mpi=list that "
            "the MPI of Horovod supports"
        )
    return workers
