"""DeepLabv3: atrous spatial pyramid pooling (ASPP) on a dilated backbone.

Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation" (arXiv 1706.05587),
with output stride 16, or 8. The backbone's last map goes through its final batch norm and ReLU, as
the features of the classifier do, into the ASPP.

Pixel i of a map of output stride s is centered on the image's pixel s * i, because the network pads
equally on both sides. So logits are read at (y / s, x / s). For sides of 16 k + 1, such as 513,
this is TensorFlow 1's `align_corners`; it is right for all other sides, too. Half-pixel centers
would move all edges by half a map pixel less half an image pixel.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow as tf

from data.common.errors import UserError
from models import layers
from models.architecture import (
    DENSE_BIAS,
    DENSE_KERNEL,
    FINAL_NORM,
    is_trainable,
    kernel_name,
    norm_names,
)
from models.layers import BatchMoments
from models.resnet import ResNet, initial_value

_ASPP = "segmentation/aspp"
POINTWISE, IMAGE, PROJECTION = f"{_ASPP}/pointwise", f"{_ASPP}/image", f"{_ASPP}/projection"
LOGITS_KERNEL, LOGITS_BIAS = "segmentation/logits/kernel", "segmentation/logits/bias"

VOC_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""The scales of the paper's multi-scale test on PASCAL VOC."""

_STRIDES = (16, 8)
_LOGITS_STDDEV = 0.01


@dataclass(frozen=True)
class DeepLabOptions:
    """Options of the head.

    Attributes:
      filters: outputs of each ASPP branch and of their projection.
      rates: dilations of the ASPP's 3 x 3 kernels for output stride 16; doubled for 8.
    """

    filters: int = 256
    rates: tuple[int, ...] = (6, 12, 18)

    def __post_init__(self) -> None:
        if self.filters < 1:
            raise UserError(f"filters is {self.filters}: it must be at least 1")
        if any(rate < 1 for rate in self.rates):
            raise UserError(f"rates are {self.rates}: they must be at least 1")


class DeepLab(tf.Module):
    """The backbone and the head: images -> logits of each pixel.

    Variables are those of the backbone without its logits layer, and the head's,
    `segmentation/...`. The head's batch norms behave like the backbone's. In training, that of the
    image pooling gets one value per image and channel: use several images per worker, or freeze the
    batch norms.

    Args:
      backbone: of output stride 16 or 8, in NHWC.
      class_num: C, the background included.
      seed: of the head's initial values; None for zeros.

    Raises:
      UserError: the backbone has another output stride or data format.
    """

    def __init__(
        self,
        backbone: ResNet,
        class_num: int,
        options: DeepLabOptions = DeepLabOptions(),
        seed: int | None = 1234,
    ) -> None:
        super().__init__(name="deeplab")
        if backbone.output_stride not in _STRIDES:
            raise UserError(f"output_stride is {backbone.output_stride}: DeepLab needs 16 or 8")
        if backbone.data_format != "NHWC":
            raise UserError(f"data_format is {backbone.data_format}: DeepLab needs NHWC")
        self.backbone, self.class_num, self.options = backbone, class_num, options
        self.compute_dtype = backbone.compute_dtype
        scale = 16 // backbone.output_stride
        self._atrous = {f"{_ASPP}/atrous{i}": r * scale for i, r in enumerate(options.rates, 1)}
        self._head = {
            name: tf.Variable(
                tf.zeros(shape) if seed is None else _initial_value(name, shape, seed),
                trainable=is_trainable(name),
                name=name,
            )
            for name, shape in self._shapes().items()
        }
        self._norms = backbone.batch_norms(self._head)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the head's variables."""
        features, filters = 32 * self.backbone.width, self.options.filters
        branches = len(self._atrous) + 2
        kernels = {
            POINTWISE: (1, 1, features, filters),
            **dict.fromkeys(self._atrous, (3, 3, features, filters)),
            IMAGE: (1, 1, features, filters),
            PROJECTION: (1, 1, branches * filters, filters),
        }
        shapes: dict[str, tuple[int, ...]] = {}
        for name, shape in kernels.items():
            shapes[kernel_name(name)] = shape
            shapes |= dict.fromkeys(norm_names(f"{name}_bn"), (filters,))
        shapes[LOGITS_KERNEL] = (1, 1, filters, self.class_num)
        shapes[LOGITS_BIAS] = (self.class_num,)
        return shapes

    def variables_by_name(self) -> dict[str, tf.Variable]:
        """Checkpoint name -> variable, moving statistics included."""
        backbone = self.backbone.variables_by_name()
        del backbone[DENSE_KERNEL], backbone[DENSE_BIAS]
        return backbone | self._head

    def trainable_by_name(self) -> dict[str, tf.Variable]:
        """Checkpoint name -> trainable variable."""
        return {name: value for name, value in self.variables_by_name().items() if value.trainable}

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Logits float32 [B, H, W, C] of images [B, H, W, 3] in [-1, 1], of any size.

        With `training=True`, batch norm uses the batch's statistics and updates the moving ones,
        unless the backbone's batch norms are frozen.
        """
        size = tf.shape(images)[1:3]
        return self._logits_at(images, training, size)

    def probabilities(
        self, images: tf.Tensor, scales: Sequence[float] = (1.0,), flip: bool = False
    ) -> tf.Tensor:
        """Probabilities float32 [B, H, W, C] of images [B, H, W, 3] of any size, for inference.

        They are averaged over all `scales` of the images, such as `VOC_SCALES`, and with `flip`
        also over their mirror images.

        Raises:
          UserError: there is no scale, or one is not above 0.
        """
        if not scales or min(scales) <= 0:
            raise UserError(f"scales are {list(scales)}: use numbers above 0, such as 0.5,1,1.5")
        images = tf.convert_to_tensor(images, tf.float32)
        total = tf.zeros([])
        for scale in scales:
            total += self._scaled_probabilities(images, tf.constant(scale, tf.float32), flip)
        return total / len(scales)

    @tf.function(reduce_retracing=True, autograph=False)
    def _scaled_probabilities(self, images: tf.Tensor, scale: tf.Tensor, flip: bool) -> tf.Tensor:
        size = tf.shape(images)[1:3]
        # As DeepLab scales: with corners aligned.
        scaled = tf.cast(tf.cast(size - 1, tf.float32) * scale + 1, tf.int32)
        resized = tf.raw_ops.ResizeBilinear(images=images, size=scaled, align_corners=True)
        found = tf.nn.softmax(self._logits_at(resized, False, size))
        if flip:
            logits = self._logits_at(tf.reverse(resized, [2]), False, size)
            found = (found + tf.nn.softmax(tf.reverse(logits, [2]))) / 2
        return found

    def _logits_at(self, images: tf.Tensor, training: bool, size: tf.Tensor) -> tf.Tensor:
        """Logits float32 [B, *size, C] of images [B, h, w, 3], with corners aligned."""
        x = self.backbone.stage_maps(images, training)[-1]
        x = self.backbone.norm_relu(x, FINAL_NORM, training)
        moments: BatchMoments = {}
        x = self._pyramid(x, training, moments)
        self._norms.update(moments)
        x = layers.convolve(tf.cast(x, tf.float32), self._head[LOGITS_KERNEL])
        pixels = tf.cast(tf.shape(images)[1:3] - 1, tf.float32)
        steps = tf.math.divide_no_nan(pixels, tf.cast(size - 1, tf.float32))
        rows, columns = (
            tf.range(tf.cast(size[i], tf.float32)) * steps[i] / self.backbone.output_stride
            for i in range(2)
        )
        return interpolate(x + self._head[LOGITS_BIAS], rows, columns)

    def _pyramid(self, x: tf.Tensor, training: bool, moments: BatchMoments) -> tf.Tensor:
        """The ASPP's map [B, h, w, filters] from the backbone's [B, h, w, features]."""

        def unit(x: tf.Tensor, name: str, dilation: int = 1) -> tf.Tensor:
            x = layers.convolve(x, self._head[kernel_name(name)], dilation=dilation)
            return self._norms(x, f"{name}_bn", training, moments)

        branches = [unit(x, POINTWISE)]
        branches += [unit(x, name, rate) for name, rate in self._atrous.items()]
        # In float32, because it is a mean of many values.
        mean = tf.reduce_mean(tf.cast(x, tf.float32), [1, 2], keepdims=True)
        pooled = unit(tf.cast(mean, x.dtype), IMAGE)
        # The result of bilinear interpolation of a single pixel.
        branches.append(tf.broadcast_to(pooled, tf.shape(branches[0])))
        return unit(tf.concat(branches, axis=3), PROJECTION)


def interpolate(x: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Interpolates x float32 [B, h, w, C] bilinearly at its pixel `rows` [H] and `columns` [W].

    Positions beyond an edge get the value at the edge. Uses two matrix products: with the gradient,
    they take a ninth of the time of TensorFlow's operation (33 to 513 pixels, 21 classes, a CPU).

    Returns:
      float32 [B, H, W, C].
    """
    batch, height, width, _ = tf.unstack(tf.shape(x))
    channels = x.shape[3]
    x = tf.matmul(_weights(rows, height), tf.reshape(x, [batch, height, width * channels]))
    return tf.matmul(_weights(columns, width), tf.reshape(x, [batch, -1, width, channels]))


def _weights(positions: tf.Tensor, pixels: tf.Tensor) -> tf.Tensor:
    """float32 [N, pixels]: the weight of each pixel at each of the `positions` [N]."""
    centers = tf.range(tf.cast(pixels, tf.float32))
    inside = tf.clip_by_value(positions, 0.0, centers[-1])
    return tf.nn.relu(1 - tf.abs(inside[:, tf.newaxis] - centers))


def _initial_value(name: str, shape: Sequence[int], seed: int) -> tf.Tensor:
    if name == LOGITS_KERNEL:
        name_seed = [seed, zlib.crc32(name.encode())]
        return tf.random.stateless_normal(shape, name_seed, stddev=_LOGITS_STDDEV)
    return initial_value(name, shape, seed)
