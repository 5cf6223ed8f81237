"""Device settings of a process: its GPU, threads, determinism and XLA."""

import dataclasses
import platform
from pathlib import Path

import tensorflow as tf

from data.common.errors import UserError

CPU_INFO = Path("/proc/cpuinfo")
# An x86 CPU needs one of these to be faster in the type than in float32. Without AVX-512,
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
        """Configures this process; must be called before TensorFlow runs anything.

        A single process uses the first GPU of `visiable_gpu`. One of several processes, with
        `local_rank` k, uses the k-th GPU that the launcher makes visible on the machine.
        """
        gpus = tf.config.list_physical_devices("GPU")
        if gpus:
            # Horovod: one process, one GPU.
            index = local_rank if several_processes else self._first_gpu()
            if index >= len(gpus):
                raise UserError(
                    f"GPU {index} was requested, but {len(gpus)} are visible: check --visiable_gpu,"
                    " and start one process per GPU"
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
    """`dtype`, or float32 if this machine is faster in float32 than in a 16-bit `dtype`."""
    if platform.machine() != "x86_64" or tf.config.list_logical_devices("GPU"):
        return dtype
    needed = _INSTRUCTIONS.get(dtype)
    if needed is None or not CPU_INFO.exists():
        return dtype
    has = CPU_INFO.read_text(encoding="utf-8").split()
    return tf.float32 if needed.isdisjoint(has) else dtype
