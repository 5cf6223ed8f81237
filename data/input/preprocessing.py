"""From encoded images to the network's input, for inference and evaluation: spec section 5.

One definition for all scripts, in TensorFlow operations, so that it can be exported with a network.
Training has data/input/augmentation.py.
"""

from __future__ import annotations

import tensorflow as tf

CHANNELS = 3
# The short side is resized to 256 for a crop of 224, and in proportion for other sizes.
RESIZED, CROPPED = 256, 224
TEN_CROPS = 10


class PreprocessingError(ValueError):
    """Crops that are not offered; the message is one line."""


def decode(contents: tf.Tensor) -> tf.Tensor:
    """uint8 [H, W, 3] of an encoded image, as exact as the decoder can."""
    return tf.cond(
        tf.io.is_jpeg(contents),
        lambda: tf.io.decode_jpeg(contents, CHANNELS, dct_method="INTEGER_ACCURATE"),
        lambda: decode_other(contents),
    )


def inference_crops(image: tf.Tensor, image_size: int, crops: int = 1) -> tf.Tensor:
    """The network's input for inference and evaluation (spec section 5).

    The short side is resized to 256/224 of `image_size`, rounded down, the long side in proportion
    and truncated; bilinear with half-pixel centres and no antialiasing.

    Args:
        image: uint8 [H, W, 3], upright.
        image_size: side of a crop in pixels.
        crops: 1, the centre; or 10, the corners and the centre and then their mirrors.

    Returns:
        float32 [crops, image_size, image_size, 3] in [-1, 1].
    """
    if crops not in (1, TEN_CROPS):
        raise PreprocessingError(f"{crops} crops: take 1 or {TEN_CROPS}")
    short = image_size * RESIZED // CROPPED
    height, width = tf.unstack(tf.shape(image)[:2])
    side = tf.minimum(height, width)
    height, width = height * short // side, width * short // side
    image = tf.raw_ops.ResizeBilinear(
        images=image[tf.newaxis], size=[height, width], half_pixel_centers=True
    )[0]
    image = image * (2.0 / 255.0) - 1.0
    bottom, right = height - image_size, width - image_size
    corners = [(bottom // 2, right // 2)]
    if crops == TEN_CROPS:
        corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), *corners]
    parts = [image[y : y + image_size, x : x + image_size] for y, x in corners]
    if crops == TEN_CROPS:
        parts += [tf.reverse(part, [1]) for part in parts]
    return tf.ensure_shape(tf.stack(parts), [crops, image_size, image_size, CHANNELS])


def decode_other(contents: tf.Tensor) -> tf.Tensor:
    """uint8 [H, W, 3] of a PNG, GIF (first frame) or BMP: old records hold some as "JPEG"."""
    image = tf.io.decode_image(contents, CHANNELS, expand_animations=False)
    return tf.ensure_shape(image, [None, None, CHANNELS])
