"""Inference and evaluation preprocessing: decode, resize, crop (spec section 5).

One definition for all scripts, in TensorFlow operations, so that it can be exported with a network.
Training uses data/input/augment.py instead.
"""

from __future__ import annotations

import tensorflow as tf

from data.common.errors import UserError

CHANNELS = 3
# The short side is resized to 256 pixels for a crop of 224, and in proportion for other sizes.
RESIZED, CROPPED = 256, 224
TEN_CROPS = 10

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_COLOR_TYPE = 25  # its offset in the file


def decode(contents: tf.Tensor) -> tf.Tensor:
    """Decodes an image, a string scalar, to uint8 [H, W, 3] by the decoder's most exact method."""
    return tf.cond(
        tf.io.is_jpeg(contents),
        lambda: tf.io.decode_jpeg(contents, CHANNELS, dct_method="INTEGER_ACCURATE"),
        lambda: _decode_other(contents),
    )


def _decode_other(contents: tf.Tensor) -> tf.Tensor:
    """Decodes a PNG, GIF (first frame) or BMP to uint8 [H, W, 3]; old records call some JPEG."""

    def of_gif_or_bmp() -> tf.Tensor:
        image = tf.io.decode_image(contents, CHANNELS, expand_animations=False)
        return tf.ensure_shape(image, [None, None, CHANNELS])

    return tf.cond(_is_png(contents), lambda: _decode_png(contents), of_gif_or_bmp)


def _is_png(contents: tf.Tensor) -> tf.Tensor:
    """bool scalar: whether an encoded image is a PNG."""
    return tf.strings.substr(contents, 0, len(_PNG_START)) == _PNG_START


def _decode_png(contents: tf.Tensor) -> tf.Tensor:
    """Decodes a PNG to uint8 [H, W, 3], transparency over white, rounded as Pillow does."""
    image = tf.cast(tf.io.decode_png(contents, 4), tf.int32)
    colors, alpha = image[..., :3], image[..., 3:]
    # Grayscale has at most one transparent value. For 1-bit images without one, TensorFlow 2.21
    # gives an alpha of 1 instead of 255.
    is_gray = tf.strings.substr(contents, _PNG_COLOR_TYPE, 1) == b"\0"
    alpha = tf.where(is_gray & (alpha > 0), 255, alpha)
    return tf.cast((colors * alpha + 255 * (255 - alpha) + 127) // 255, tf.uint8)


def decode_jpeg_or_png(contents: tf.Tensor) -> tf.Tensor:
    """`decode` for exported graphs; other formats are refused at run time.

    TensorFlow drops the transparency of GIFs, misreads BMPs with a palette, and lacks TIFF.
    """
    is_supported = tf.io.is_jpeg(contents) | _is_png(contents)
    refusal = "image_bytes: neither JPEG nor PNG, the supported formats; convert it first"
    with tf.control_dependencies([tf.debugging.Assert(is_supported, [refusal])]):
        return decode(tf.identity(contents))


def inference_crops(image: tf.Tensor, image_size: int, crops: int = 1) -> tf.Tensor:
    """The network's input for inference and evaluation (spec section 5).

    The short side is resized to 256/224 of `image_size`, rounded down, the long side in proportion
    and truncated; bilinear with half-pixel centers and no antialiasing.

    Args:
        image: uint8 [H, W, 3], upright.
        image_size: side of a crop in pixels.
        crops: 1, the center; or 10, the corners and the center and then their mirrors.

    Returns:
        float32 [crops, image_size, image_size, 3] in [-1, 1].
    """
    if crops not in (1, TEN_CROPS):
        raise UserError(f"{crops} crops: use 1 or {TEN_CROPS}")
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
