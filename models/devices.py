"""The devices of a process: which it sees, how many threads, how exactly they repeat."""

import dataclasses
import os

import tensorflow as tf


class DeviceError(ValueError):
    """Devices that were asked for and are not there."""


@dataclasses.dataclass(frozen=True)
class DeviceOptions:
    """The fields are the flags of the same name."""

    visiable_gpu: str = "0"
    threads: int = 0
    deterministic: bool = False
    xla: bool = False
    random_seed: int = 1234

    def apply(self, local_rank: int = 0, several_processes: bool = False) -> None:
        """Sets this process up; before TensorFlow has run anything.

        Alone, a process takes the first GPU of `visiable_gpu`. Among several, the process with
        `local_rank` k takes the k-th GPU of the machine, as the launcher shows them.
        """
        gpus = tf.config.list_physical_devices("GPU")
        if gpus:
            # Horovod: one process, one GPU.
            index = local_rank if several_processes else self._first_gpu()
            if index >= len(gpus):
                raise DeviceError(
                    f"GPU {index} was asked for and {len(gpus)} are seen: see --visiable_gpu, and "
                    "start one process a GPU"
                )
            tf.config.set_visible_devices(gpus[index], "GPU")
            tf.config.experimental.set_memory_growth(gpus[index], True)
        self._check_threads()
        if self.threads:
            tf.config.threading.set_intra_op_parallelism_threads(self.threads)
        if self.deterministic:
            tf.config.experimental.enable_op_determinism()
        if self.xla:
            tf.config.optimizer.set_jit("autoclustering")
        tf.random.set_seed(self.random_seed)

    def _check_threads(self) -> None:
        """TensorFlow 2.18's oneDNN lays work out for every core, and one thread then crashes."""
        variables = os.environ
        threads = self.threads or int(variables.get("TF_NUM_INTRAOP_THREADS") or 0)
        if threads != 1 or variables.get("TF_ENABLE_ONEDNN_OPTS") == "0":
            return
        if len(os.sched_getaffinity(0)) > 1:
            raise DeviceError(
                "one thread (--threads=1 or TF_NUM_INTRAOP_THREADS=1) on several cores makes "
                "TensorFlow crash: give the process one core (taskset -c 0 python ...), or set "
                "TF_ENABLE_ONEDNN_OPTS=0"
            )

    def _first_gpu(self) -> int:
        first = self.visiable_gpu.split(",")[0].strip()
        if not first.isdigit():
            raise DeviceError(f"--visiable_gpu={self.visiable_gpu}: use indices such as 0 or 0,1")
        return int(first)
