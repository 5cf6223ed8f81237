"""ResNet v2 (pre-activation bottleneck) of Tencent ML-Images in raw TensorFlow operations.

Source: spec section 2 ("Network"); He et al., "Identity Mappings in Deep Residual Networks".
Differences from the usual ResNet v2: no max pool, the first block of *each* stage has stride 2,
and a projection shortcut has its own batch norm and ReLU before its convolution.
"""

import math
import zlib
from collections.abc import Mapping, Sequence

import tensorflow as tf
from absl import logging

from data.common.errors import UserError
from models import layers
from models.architecture import (
    BLOCKS,
    DENSE_BIAS,
    DENSE_KERNEL,
    FINAL_NORM,
    STEM,
    Block,
    PreActConv,
    blocks,
    is_trainable,
    kernel_name,
    variable_shapes,
)
from models.devices import fast_dtype
from models.layers import BatchMoments, BatchNorms

__all__ = ["BLOCKS", "ResNet", "UserError", "initial_value"]

DATA_FORMATS = ("NHWC", "NCHW")
COMPUTE_DTYPES = (tf.float32, tf.bfloat16, tf.float16)

# The standard deviation of a unit normal truncated at two standard deviations.
_TRUNCATED_STDDEV = 0.87962566103423978


def initial_value(name: str, shape: Sequence[int], seed: int) -> tf.Tensor:
    """The initial value of a variable, determined by its checkpoint name, its shape and `seed`.

    Kernels: variance scaling (fan-in, scale 1, truncated normal). Dense kernel: Glorot uniform.
    """
    if name.endswith(("/gamma", "/moving_variance")):
        return tf.ones(shape)
    if name.endswith(("/beta", "/moving_mean", "/bias")):
        return tf.zeros(shape)
    name_seed = [seed, zlib.crc32(name.encode())]
    if name == DENSE_KERNEL:
        limit = math.sqrt(6 / sum(shape))
        return tf.random.stateless_uniform(shape, name_seed, -limit, limit)
    stddev = math.sqrt(1 / math.prod(shape[:-1])) / _TRUNCATED_STDDEV
    return tf.random.stateless_truncated_normal(shape, name_seed, stddev=stddev)


class ResNet(tf.Module):
    """The network: images -> `features` -> `logits`; a call does both.

    Images are float [B, H, W, 3] in [-1, 1] for either `data_format` (the network transposes them).
    Variables, statistics, features and logits are float32 for every `compute_dtype`.
    With `training=True`, batch norm uses the batch's statistics and updates the moving ones.

    Args:
      resnet_size: a key of `BLOCKS`.
      class_num: number of logits.
      width: filters of the stem; stages output 4, 8, 16 and 32 times as many (ours, for tests).
      data_format: NHWC, or NCHW, which needs a GPU.
      batch_norm_decay, batch_norm_epsilon: spec section 2.
      compute_dtype: dtype of convolutions and activations; float32 is used instead on a CPU that
        is slower in 16 bits.
      seed: of the initial values; None: zeros, which is faster when a checkpoint is restored.
      freeze_batch_norm: use the moving statistics in training, too, and do not update them.
      recompute: keep only each block's input and rerun the block in the backward pass: half the
        memory, a fifth more time.
      reduce_moments: differentiable average of tensors over the workers, for synchronized batch
        norm; None: each worker normalizes by its own batch.
      moment_workers: the number of workers that `reduce_moments` averages over.
      output_stride: image size divided by the size of the last map: 32, or 16 or 8 for dense
        prediction (see `architecture.blocks`); the variables are the same.

    Raises:
      UserError: an argument is out of range, or `data_format` is NCHW and there is no GPU.
    """

    def __init__(
        self,
        resnet_size: int,
        class_num: int,
        *,
        width: int = 64,
        data_format: str = "NHWC",
        batch_norm_decay: float = 0.997,
        batch_norm_epsilon: float = 1e-5,
        compute_dtype: tf.DType | str = tf.float32,
        seed: int | None = 1234,
        freeze_batch_norm: bool = False,
        recompute: bool = False,
        reduce_moments: layers.ReduceMoments | None = None,
        moment_workers: int = 1,
        output_stride: int = 32,
    ) -> None:
        super().__init__(name="resnet")
        self.resnet_size, self.class_num, self.width = resnet_size, class_num, width
        self.data_format, self.compute_dtype = data_format, tf.as_dtype(compute_dtype)
        self._check()
        self._arithmetic = fast_dtype(self.compute_dtype)
        if self._arithmetic != self.compute_dtype:
            logging.warning(
                "this CPU is slower in %s than in float32: using float32",
                self.compute_dtype.name,
            )
        self.output_stride = output_stride
        self._blocks, self._recompute = blocks(resnet_size, width, output_stride), recompute
        self._by_name = {
            name: tf.Variable(
                tf.zeros(shape) if seed is None else initial_value(name, shape, seed),
                trainable=is_trainable(name),
                name=name,
            )
            for name, shape in variable_shapes(resnet_size, class_num, width).items()
        }
        self._norms = BatchNorms(
            *(self._by_name, batch_norm_decay, batch_norm_epsilon, freeze_batch_norm),
            *(reduce_moments, moment_workers, data_format),
        )

    def _check(self) -> None:
        if self.data_format not in DATA_FORMATS:
            raise UserError(f"data_format is {self.data_format!r}: use NHWC or NCHW")
        if self.data_format == "NCHW" and not tf.config.list_physical_devices("GPU"):
            raise UserError("data_format is NCHW, which needs a GPU, but none is visible: use NHWC")
        if self.compute_dtype not in COMPUTE_DTYPES:
            names = ", ".join(dtype.name for dtype in COMPUTE_DTYPES)
            raise UserError(f"compute_dtype is {self.compute_dtype.name}: use one of {names}")
        for name in ("class_num", "width"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least 1")

    def variables_by_name(self) -> dict[str, tf.Variable]:
        """Checkpoint name -> variable, moving statistics included, in network order."""
        return dict(self._by_name)

    def trainable_by_name(self) -> dict[str, tf.Variable]:
        """Checkpoint name -> trainable variable, in network order."""
        return {name: value for name, value in self._by_name.items() if value.trainable}

    def batch_norms(self, variables: Mapping[str, tf.Variable]) -> BatchNorms:
        """Batch norms over the variables of a head, with the settings of the network's own."""
        return self._norms.of(variables)

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Logits float32 [B, class_num] of images [B, H, W, 3]."""
        return self.logits(self.features(images, training))

    def features(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Features float32 [B, 32 * width] (2,048) of images [B, H, W, 3].

        The last stage's output after batch norm, ReLU and global average pooling.
        """
        return self._pool(self._last_map(images, training))

    def feature_map(self, images: tf.Tensor) -> tf.Tensor:
        """The last feature map, whose mean over its cells is `features`; for inference.

        Returns:
          float32 [B, ceil(H / s), ceil(W / s), 32 * width], s the output stride.
        """
        x = tf.cast(self._last_map(images, training=False), tf.float32)
        return x if self.data_format == "NHWC" else tf.transpose(x, [0, 2, 3, 1])

    def stage_maps(
        self, images: tf.Tensor, training: bool = False, stages: int = 4
    ) -> list[tf.Tensor]:
        """The output maps of the first `stages` stages, before the next batch norm.

        Returns:
          [B, ceil(H / s), ceil(W / s), 4 * width * 2**stage] each, in the dtype that the network
          computes in (transposed in NCHW); s is 4, 8, 16, 32, but at most the output stride.
        """
        moments: BatchMoments = {}
        maps = self._stages(images, training, stages, moments)
        self._norms.update(moments)
        return maps

    def run_stage(
        self, x: tf.Tensor, stage: int, training: bool = False, stride: int = 1
    ) -> tf.Tensor:
        """Runs `stage`, without dilation, on a map x of the previous stage or a region of one.

        With `stride` 1, the result has the size of x.
        """
        moments: BatchMoments = {}
        for block in self._blocks:
            if block.stage == stage:
                x = self._block(x, block.with_stride(stride), training, moments)
        self._norms.update(moments)
        return x

    def norm_relu(self, x: tf.Tensor, name: str, training: bool = False) -> tf.Tensor:
        """x after the network's batch norm with this checkpoint name, and ReLU."""
        moments: BatchMoments = {}
        x = self._norm_relu(x, name, training, moments)
        self._norms.update(moments)
        return x

    def stage_features(self, images: tf.Tensor, stage: int) -> tf.Tensor:
        """The pooled output of `stage` (0 to 3), before the next batch norm, for inference.

        Returns:
          float32 [B, 4 * width * 2**stage].

        Raises:
          UserError: there is no such stage.
        """
        if not 0 <= stage < len(BLOCKS[self.resnet_size]):
            raise UserError(f"stage is {stage}: use 0 to {len(BLOCKS[self.resnet_size]) - 1}")
        return self._pool(self._stages(images, False, stage + 1, {})[-1])

    def logits(self, features: tf.Tensor) -> tf.Tensor:
        """Logits float32 [B, class_num] of features [B, 32 * width]."""
        return tf.matmul(features, self._by_name[DENSE_KERNEL]) + self._by_name[DENSE_BIAS]

    def _last_map(self, images: tf.Tensor, training: bool) -> tf.Tensor:
        moments: BatchMoments = {}
        *_, x = self._stages(images, training, len(BLOCKS[self.resnet_size]), moments)
        x = self._norm_relu(x, FINAL_NORM, training, moments)
        self._norms.update(moments)
        return x

    def _stages(
        self, images: tf.Tensor, training: bool, count: int, moments: BatchMoments
    ) -> list[tf.Tensor]:
        """The outputs of the first `count` stages; adds the batch norms' moments to `moments`."""
        x = tf.cast(images, self._arithmetic)
        if self.data_format == "NCHW":
            x = tf.transpose(x, [0, 3, 1, 2])
        x = self._convolve(x, STEM, stride=2)
        maps: dict[int, tf.Tensor] = {}
        for block in self._blocks:
            if block.stage < count:
                maps[block.stage] = x = self._block(x, block, training, moments)
        return list(maps.values())

    def _block(
        self, x: tf.Tensor, block: Block, training: bool, moments: BatchMoments
    ) -> tf.Tensor:
        def run(x: tf.Tensor) -> tuple[tf.Tensor, BatchMoments]:
            own: BatchMoments = {}
            y = x
            for unit in block.branch:
                y = self._unit(y, unit, training, own)
            shortcut = x if block.shortcut is None else self._unit(x, block.shortcut, training, own)
            return shortcut + y, own

        # `recompute` calls `run` twice, so `run` returns its moments instead of adding them.
        y, own = layers.recompute(run, x) if training and self._recompute else run(x)
        moments |= own
        return y

    def _unit(
        self, x: tf.Tensor, unit: PreActConv, training: bool, moments: BatchMoments
    ) -> tf.Tensor:
        x = self._norm_relu(x, f"{unit.name}_bn", training, moments)
        return self._convolve(x, unit.name, unit.stride, unit.dilation)

    def _convolve(self, x: tf.Tensor, name: str, stride: int, dilation: int = 1) -> tf.Tensor:
        kernel = self._by_name[kernel_name(name)]
        return layers.convolve(x, kernel, stride, self.data_format, dilation)

    def _norm_relu(
        self, x: tf.Tensor, name: str, training: bool, moments: BatchMoments
    ) -> tf.Tensor:
        return self._norms(x, name, training, moments)

    def _pool(self, x: tf.Tensor) -> tf.Tensor:
        axes = [1, 2] if self.data_format == "NHWC" else [2, 3]
        return tf.reduce_mean(tf.cast(x, tf.float32), axes)
