"""From encoded images to the network's input: augmentation for training, and for inference.

Spec section 5. Training draws every random number from a pair (seed, position), where the position
is that of the record in the order of training: results depend neither on threads nor on workers.
"""

from __future__ import annotations

import dataclasses
import math

import tensorflow as tf

from data.randaugment import rand_augment

CHANNELS = 3
CROP_TRIES = 100
BRIGHTNESS = 32.0 / 255.0  # largest amount added, of [0, 1]
SATURATION = (0.5, 1.5)
HUE = 0.2  # largest turn, in whole turns
CONTRAST = (0.5, 1.5)
# Inference resizes the short side to 256 for a crop of 224, and in proportion for other sizes.
RESIZED, CROPPED = 256, 224
TEN_CROPS = 10


class PreprocessingError(ValueError):
    """Augmentation options that contradict each other; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The random changes of training, of spec section 5; the fields are the flags' names.

    Of the images, `rotate_probability` are rotated and get colour order A (brightness, saturation,
    hue, contrast), `colour_probability` get order B (brightness, contrast, saturation, hue), the
    rest keep their colours. The defaults are the released draw from {0, 1, 2}.

    Raises:
        PreprocessingError: an empty range, or probabilities that exceed 1 together.
    """

    area_min: float = 0.7
    area_max: float = 1.0
    aspect_min: float = 0.75
    aspect_max: float = 1.33
    flip_probability: float = 0.5
    rotate_probability: float = 1 / 3
    colour_probability: float = 1 / 3
    rotate_degrees: float = 45.0
    randaugment_layers: int = 0
    randaugment_magnitude: float = 9.0

    def __post_init__(self) -> None:
        for name in ("area", "aspect"):
            low, high = getattr(self, f"{name}_min"), getattr(self, f"{name}_max")
            if not 0 < low <= high:
                raise PreprocessingError(
                    f"--{name}_min={low} and --{name}_max={high} must be above 0 and in order"
                )
        if self.rotate_probability + self.colour_probability > 1 + 1e-6:
            raise PreprocessingError(
                f"--rotate_probability={self.rotate_probability} and --colour_probability="
                f"{self.colour_probability} are shares of the same images: together at most 1"
            )


def training_image(
    contents: tf.Tensor, seed: tf.Tensor, image_size: int, augmentation: Augmentation
) -> tf.Tensor:
    """One augmented image.

    Args:
        contents: string scalar, an encoded image.
        seed: int64 [2], the run's seed and the record's position.
        image_size: side of the result in pixels.

    Returns:
        float32 [image_size, image_size, 3] in [-1, 1].
    """
    image = random_crop(contents, seed, augmentation)
    image = _resize(image, image_size, image_size) / 255.0
    image = distort(image, seed, augmentation)
    if augmentation.randaugment_layers:
        layers, magnitude = augmentation.randaugment_layers, augmentation.randaugment_magnitude
        own_seed = seed + tf.constant([2 << 32, 0], tf.int64)
        image = rand_augment(image, own_seed, layers, magnitude)
    return image * 2.0 - 1.0


def random_crop(contents: tf.Tensor, seed: tf.Tensor, augmentation: Augmentation) -> tf.Tensor:
    """uint8 [h, w, 3]: a random part of an encoded image, the whole if no try fits."""
    is_jpeg = tf.io.is_jpeg(contents)
    shape = tf.cond(
        is_jpeg,
        lambda: tf.io.extract_jpeg_shape(contents),
        lambda: tf.shape(_decode_other(contents)),
    )
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        tf.zeros([1, 0, 4]),
        seed,
        min_object_covered=0.0,
        aspect_ratio_range=(augmentation.aspect_min, augmentation.aspect_max),
        area_range=(augmentation.area_min, augmentation.area_max),
        max_attempts=CROP_TRIES,
        use_image_if_no_bounding_boxes=True,
    )
    window = tf.concat([begin[:2], size[:2]], 0)
    return tf.cond(
        is_jpeg,
        lambda: tf.io.decode_and_crop_jpeg(
            contents, window, channels=CHANNELS, dct_method="INTEGER_FAST"
        ),
        lambda: tf.image.crop_to_bounding_box(_decode_other(contents), *tf.unstack(window)),
    )


def distort(image: tf.Tensor, seed: tf.Tensor, augmentation: Augmentation) -> tf.Tensor:
    """Flip, rotation and colours of spec section 5: float32 [S, S, 3] in [0, 1], and so back."""
    draws = tf.unstack(tf.random.stateless_uniform([7], seed + tf.constant([1 << 32, 0], tf.int64)))
    flip, kind, angle, brightness, saturation, hue, contrast = draws
    image = tf.cond(
        flip < augmentation.flip_probability, lambda: tf.reverse(image, [1]), lambda: image
    )
    radians = (2 * angle - 1) * math.radians(augmentation.rotate_degrees)
    brightness = (2 * brightness - 1) * BRIGHTNESS
    saturation = SATURATION[0] + saturation * (SATURATION[1] - SATURATION[0])
    hue = (2 * hue - 1) * HUE
    contrast = CONTRAST[0] + contrast * (CONTRAST[1] - CONTRAST[0])

    def order_a() -> tf.Tensor:
        x = rotate(image, radians) + brightness
        x = tf.image.adjust_hue(tf.image.adjust_saturation(x, saturation), hue)
        return tf.clip_by_value(tf.image.adjust_contrast(x, contrast), 0.0, 1.0)

    def order_b() -> tf.Tensor:
        x = tf.image.adjust_contrast(image + brightness, contrast)
        x = tf.image.adjust_hue(tf.image.adjust_saturation(x, saturation), hue)
        return tf.clip_by_value(x, 0.0, 1.0)

    rotates = kind < augmentation.rotate_probability
    colours = kind < augmentation.rotate_probability + augmentation.colour_probability
    return tf.cond(rotates, order_a, lambda: tf.cond(colours, order_b, lambda: image))


def rotate(image: tf.Tensor, radians: tf.Tensor) -> tf.Tensor:
    """Turns an image [S, S, 3] about its centre; nearest pixel, black where nothing was."""
    middle = (image.shape[0] - 1) / 2
    cos, sin = tf.cos(radians), tf.sin(radians)
    transform = [cos, -sin, middle - (cos - sin) * middle, sin, cos, middle - (sin + cos) * middle]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=tf.stack([*transform, 0.0, 0.0])[tf.newaxis],
        output_shape=image.shape[:2],
        fill_value=0.0,
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )[0]


def decode(contents: tf.Tensor) -> tf.Tensor:
    """uint8 [H, W, 3] of an encoded image, as exact as the decoder can."""
    return tf.cond(
        tf.io.is_jpeg(contents),
        lambda: tf.io.decode_jpeg(contents, CHANNELS, dct_method="INTEGER_ACCURATE"),
        lambda: _decode_other(contents),
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
    image = _resize(image, height, width) * (2.0 / 255.0) - 1.0
    bottom, right = height - image_size, width - image_size
    corners = [(bottom // 2, right // 2)]
    if crops == TEN_CROPS:
        corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), *corners]
    parts = [image[y : y + image_size, x : x + image_size] for y, x in corners]
    if crops == TEN_CROPS:
        parts += [tf.reverse(part, [1]) for part in parts]
    return tf.ensure_shape(tf.stack(parts), [crops, image_size, image_size, CHANNELS])


def _decode_other(contents: tf.Tensor) -> tf.Tensor:
    """PNG, GIF (first frame) or BMP: old records hold some under the name of JPEG."""
    image = tf.io.decode_image(contents, CHANNELS, expand_animations=False)
    return tf.ensure_shape(image, [None, None, CHANNELS])


def _resize(image: tf.Tensor, height: tf.Tensor | int, width: tf.Tensor | int) -> tf.Tensor:
    """float32 [height, width, 3] in the range of `image`: bilinear, half-pixel centres."""
    return tf.raw_ops.ResizeBilinear(
        images=image[tf.newaxis], size=[height, width], half_pixel_centers=True
    )[0]
