"""Joins the job that this process was launched in.

Under `horovodrun`, `mpirun` or `srun` with more than one process, Horovod joins them; a process
that was started alone runs the same code, and then Horovod need not be installed.
"""

from data.common.errors import UserError
from data.common.processes import is_elastic, this_process
from models.distributed.base import Distributed, DistributedOptions, SingleProcess


def start(options: DistributedOptions) -> Distributed:
    """Joins the job that this process was launched in; alone, it is a job of one.

    Raises:
      UserError: launched with others, but Horovod is not installed or does not join them.
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
            f"{process.launcher} started {process.size} processes, but Horovod joins "
            f"{workers.size}: under srun give --mpi=pmix, or whatever the MPI that Horovod was "
            "built with talks to (srun --mpi=list)"
        )
    return workers
