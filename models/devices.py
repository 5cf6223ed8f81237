"""The devices of a process: which it sees, how many threads, how exactly they repeat."""

import dataclasses
import platform
from pathlib import Path

import tensorflow as tf

from data.common.errors import UserError

CPU_INFO = Path("/proc/cpuinfo")
# Of these an x86 processor must have one to be faster in that type than in float32. Without AVX-512
# TensorFlow even falls back to loops: the gradients of a convolution take 25 times as long.
_INSTRUCTIONS = {
    tf.bfloat16: {"avx512_bf16", "amx_bf16"},
    tf.float16: {"avx512_fp16", "amx_fp16"},
}


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
                raise UserError(
                    f"GPU {index} was asked for and {len(gpus)} are seen: see --visiable_gpu, and "
                    "start one process a GPU"
                )
            tf.config.set_visible_devices(gpus[index], "GPU")
            tf.config.experimental.set_memory_growth(gpus[index], True)
        if self.threads:
            tf.config.threading.set_intra_op_parallelism_threads(self.threads)
        if self.deterministic:
            tf.config.experimental.enable_op_determinism()
        if self.xla:
            tf.config.optimizer.set_jit("autoclustering")
        tf.random.set_seed(self.random_seed)

    def _first_gpu(self) -> int:
        first = self.visiable_gpu.split(",")[0].strip()
        if not first.isdigit():
            raise UserError(f"--visiable_gpu={self.visiable_gpu}: use indices such as 0 or 0,1")
        return int(first)


def fast_dtype(dtype: tf.DType) -> tf.DType:
    """`dtype`, or float32 where this machine computes in a 16-bit `dtype` slower than in that."""
    if platform.machine() != "x86_64" or tf.config.list_logical_devices("GPU"):
        return dtype
    needed = _INSTRUCTIONS.get(dtype)
    if needed is None or not CPU_INFO.exists():
        return dtype
    has = CPU_INFO.read_text(encoding="utf-8").split()
    return tf.float32 if needed.isdisjoint(has) else dtype
