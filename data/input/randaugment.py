"""RandAugment: random operations of one common strength (Cubuk et al., arXiv 1909.13719).

Off by default: the released recipes do not have it. Works on one image, float32 [H, W, 3] in
[0, 1], and is a stateless function of its seed.
"""

import functools
import math
from collections.abc import Callable

import tensorflow as tf

MAX_MAGNITUDE = 10.0
FILL = 0.5  # gray where a geometric operation has no source pixel
MAX_ROTATION = 30.0  # degrees
MAX_SHEAR = 0.3
MAX_SHIFT = 0.45  # of the image's side, as in timm
MAX_ENHANCE = 0.9
GRAY_WEIGHTS = (0.299, 0.587, 0.114)

Operation = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def rand_augment(
    image: tf.Tensor, seed: tf.Tensor, layers: int = 2, magnitude: float = 9.0
) -> tf.Tensor:
    """Applies `layers` operations in sequence, drawn from the paper's fourteen.

    Args:
      image: float32 [H, W, 3] in [0, 1].
      seed: int [2].
      magnitude: strength of every operation, 0 to 10.

    Returns:
      float32 [H, W, 3] in [0, 1].
    """
    for layer in range(layers):
        layer_seed = tf.random.fold_in(tf.cast(seed, tf.int64), layer)
        choice, sign = tf.unstack(
            tf.random.stateless_uniform([2], layer_seed, 0, 2**30, dtype=tf.int32)
        )
        strength = magnitude / MAX_MAGNITUDE
        signed = tf.where(sign % 2 == 0, strength, -strength)
        branches = [
            functools.partial(operation, image, signed if is_signed else tf.constant(strength))
            for operation, is_signed in OPERATIONS.values()
        ]
        shape = image.shape
        image = tf.switch_case(choice % len(OPERATIONS), branches)
        image = tf.ensure_shape(tf.clip_by_value(image, 0.0, 1.0), shape)
    return image


def _identity(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    del level
    return tf.identity(image)


def _autocontrast(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    del level
    low, high = tf.reduce_min(image, [0, 1]), tf.reduce_max(image, [0, 1])
    return tf.where(high > low, (image - low) / tf.maximum(high - low, 1e-6), image)


def _equalize(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Spreads the 256 values of each channel evenly, as Pillow's `ImageOps.equalize`."""
    del level
    values = tf.cast(tf.round(image * 255.0), tf.int32)

    def channel(plane: tf.Tensor) -> tf.Tensor:
        histogram = tf.math.bincount(tf.reshape(plane, [-1]), minlength=256, maxlength=256)
        last = tf.boolean_mask(histogram, histogram > 0)[-1]
        step = (tf.reduce_sum(histogram) - last) // 255
        table = (tf.cumsum(histogram, exclusive=True) + step // 2) // tf.maximum(step, 1)
        table = tf.where(step > 0, tf.minimum(table, 255), tf.range(256))
        return tf.gather(table, plane)

    planes = [channel(plane) for plane in tf.unstack(values, axis=2)]
    return tf.cast(tf.stack(planes, axis=2), tf.float32) / 255.0


def _solarize(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return tf.where(image < 1.0 - level, image, 1.0 - image)


def _posterize(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    steps = tf.pow(2.0, 8.0 - tf.floor(level * 4.0))  # 8 bits down to 4
    return tf.minimum(tf.floor(image * steps), steps - 1.0) / (steps - 1.0)


def _blend(image: tf.Tensor, other: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return other + (image - other) * (1.0 + MAX_ENHANCE * level)


def _gray(image: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(image * GRAY_WEIGHTS, axis=2, keepdims=True)


def _color(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return _blend(image, _gray(image), level)


def _contrast(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return _blend(image, tf.reduce_mean(_gray(image)), level)


def _brightness(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return _blend(image, tf.zeros_like(image), level)


def _sharpness(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    kernel = tf.constant([[1.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 1.0]]) / 13.0
    kernel = tf.tile(kernel[:, :, None, None], [1, 1, 3, 1])
    smooth = tf.nn.depthwise_conv2d(image[None], kernel, [1, 1, 1, 1], "VALID")[0]
    inside = tf.pad(tf.ones_like(smooth), [[1, 1], [1, 1], [0, 0]])
    smooth = tf.pad(smooth, [[1, 1], [1, 1], [0, 0]])
    return _blend(image, tf.where(inside > 0, smooth, image), level)


def _warp(image: tf.Tensor, matrix: list[tf.Tensor]) -> tf.Tensor:
    """Output pixel (x, y) comes from (a x + b y + c, d x + e y + f), bilinear."""
    transform = tf.stack([tf.cast(x, tf.float32) for x in (*matrix, 0.0, 0.0)])
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=transform[None],
        output_shape=tf.shape(image)[:2],
        fill_value=FILL,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )[0]


def _rotate(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    angle = level * MAX_ROTATION * (math.pi / 180.0)
    cos, sin = tf.cos(angle), tf.sin(angle)
    size = tf.cast(tf.shape(image)[:2] - 1, tf.float32) / 2.0
    y, x = size[0], size[1]
    return _warp(image, [cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y])


def _shear_x(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return _warp(image, [1.0, level * MAX_SHEAR, 0.0, 0.0, 1.0, 0.0])


def _shear_y(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return _warp(image, [1.0, 0.0, 0.0, level * MAX_SHEAR, 1.0, 0.0])


def _shift_x(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    pixels = level * MAX_SHIFT * tf.cast(tf.shape(image)[1], tf.float32)
    return _warp(image, [1.0, 0.0, pixels, 0.0, 1.0, 0.0])


def _shift_y(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    pixels = level * MAX_SHIFT * tf.cast(tf.shape(image)[0], tf.float32)
    return _warp(image, [1.0, 0.0, 0.0, 0.0, 1.0, pixels])


# Name -> operation, and whether its sign is random. A seed picks by position: keep the order.
OPERATIONS: dict[str, tuple[Operation, bool]] = {
    "identity": (_identity, False),
    "autocontrast": (_autocontrast, False),
    "equalize": (_equalize, False),
    "rotate": (_rotate, True),
    "solarize": (_solarize, False),
    "color": (_color, True),
    "posterize": (_posterize, False),
    "contrast": (_contrast, True),
    "brightness": (_brightness, True),
    "sharpness": (_sharpness, True),
    "shear_x": (_shear_x, True),
    "shear_y": (_shear_y, True),
    "shift_x": (_shift_x, True),
    "shift_y": (_shift_y, True),
}
