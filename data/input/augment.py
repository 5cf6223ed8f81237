"""The random changes of training images: spec section 5.

Every random number is drawn from a pair (seed, position), where the position is that of the record
in the order of training: an image depends neither on threads nor on workers.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from data.common.errors import UserError
from data.input import exif_ops, kernels, preprocess
from data.input.preprocess import CHANNELS
from data.input.randaugment import rand_augment

CROP_TRIES = 100
# Seeds of the draws that an image needs, apart from each other.
CROP_SEED, PIXEL_SEED, RANDAUGMENT_SEED = (number << 40 for number in range(3))


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is drawn, and from what ranges; the fields are the flags of the same name.

    Of the images, `rotate_probability` are rotated and get color order A (brightness, saturation,
    hue, contrast), `color_probability` get order B (brightness, contrast, saturation, hue), the
    rest keep their colors: the defaults are the released draw from {0, 1, 2}. RandAugment, if
    asked for, comes last.

    Raises:
        UserError: a range the wrong way round, or probabilities that exceed 1 together.
    """

    area_min: float = 0.7
    area_max: float = 1.0
    aspect_min: float = 0.75
    aspect_max: float = 1.33
    flip_probability: float = 0.5
    rotate_probability: float = 1 / 3
    color_probability: float = 1 / 3
    rotate_degrees: float = 45.0
    brightness: float = 32 / 255
    saturation_min: float = 0.5
    saturation_max: float = 1.5
    hue: float = 0.2
    contrast_min: float = 0.5
    contrast_max: float = 1.5
    randaugment_layers: int = 0
    randaugment_magnitude: float = 9.0

    def __post_init__(self) -> None:
        for name in ("area", "aspect", "saturation", "contrast"):
            low, high = getattr(self, f"{name}_min"), getattr(self, f"{name}_max")
            if low > high or (name in ("area", "aspect") and low <= 0):
                raise UserError(f"--{name}_min={low} to --{name}_max={high} is no range")
        if self.rotate_probability + self.color_probability > 1 + 1e-6:
            raise UserError(
                f"--rotate_probability={self.rotate_probability} and --color_probability="
                f"{self.color_probability} are shares of the same images: together at most 1"
            )


def decode(
    contents: tf.Tensor, seeds: tf.Tensor, image_size: int, options: Augmentation
) -> list[tf.Tensor]:
    """The part of the work that TensorFlow does; `write` does the rest.

    Args:
        contents: string [n], encoded images; n is static.
        seeds: int64 [n, 2], the run's seed and the record's position.
        image_size: side of the results in pixels.
    """
    crop_and_draws = _crop_and_draws(options)
    pairs = zip(tf.unstack(contents), tf.unstack(seeds), strict=True)
    crops, draws = zip(*(crop_and_draws(*pair) for pair in pairs), strict=True)
    parts = [tf.stack(draws), *crops]
    if not options.randaugment_layers:
        return parts

    def change(*parts: np.ndarray) -> np.ndarray:
        images = np.empty((len(crops), image_size, image_size, CHANNELS), np.float32)
        _change_all(parts, images, options)
        return images

    images = tf.numpy_function(change, parts, tf.float32, stateful=False)
    images = tf.ensure_shape(images, [len(crops), image_size, image_size, CHANNELS])
    return [_with_randaugment(images, seeds, options)]


def write(parts: Sequence[np.ndarray], images: np.ndarray, options: Augmentation) -> None:
    """Fills `images`, float32 [n, image_size, image_size, 3], in [-1, 1], from `decode`'s parts."""
    if options.randaugment_layers:
        images[...] = parts[0]
    else:
        _change_all(parts, images, options)


def _change_all(parts: Sequence[np.ndarray], images: np.ndarray, options: Augmentation) -> None:
    draws, *crops = parts
    for image, crop, values in zip(images, crops, draws, strict=True):
        change_pixels(crop, values, options, image)


@functools.lru_cache(maxsize=4)
def _crop_and_draws(options: Augmentation) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    """(encoded image, seed) -> (its random crop, draws from `_ranges`), traced once for all."""
    low, high = (np.array(ends, np.float32) for ends in zip(*_ranges(options), strict=True))

    def crop_and_draws(contents: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        draws = tf.random.stateless_uniform(low.shape, _salted(seed, PIXEL_SEED))
        crop = random_crop(contents, _salted(seed, CROP_SEED), options)
        return crop, draws * (high - low) + low

    return tf.function(crop_and_draws, autograph=False)


def _with_randaugment(images: tf.Tensor, seeds: tf.Tensor, options: Augmentation) -> tf.Tensor:
    def change(pair: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        image, seed = (pair[0] + 1.0) / 2.0, _salted(pair[1], RANDAUGMENT_SEED)
        layers, magnitude = options.randaugment_layers, options.randaugment_magnitude
        return rand_augment(image, seed, layers, magnitude) * 2.0 - 1.0

    return tf.map_fn(change, (images, seeds), fn_output_signature=images.dtype)


def _salted(seed: tf.Tensor, salt: int) -> tf.Tensor:
    return seed + tf.constant([salt, 0], tf.int64)


def random_crop(contents: tf.Tensor, seed: tf.Tensor, options: Augmentation) -> tf.Tensor:
    """uint8 [h, w, 3]: a random part of an upright image, the whole if no try fits."""
    is_stored_upright = tf.io.is_jpeg(contents) & (exif_ops.orientation(contents) == 1)

    def of_jpeg() -> tf.Tensor:
        window = _window(tf.io.extract_jpeg_shape(contents), seed, options)
        return tf.io.decode_and_crop_jpeg(contents, window, CHANNELS, dct_method="INTEGER_FAST")

    def of_other() -> tf.Tensor:
        image = exif_ops.upright(preprocess.decode(contents), contents)
        window = _window(tf.shape(image), seed, options)
        return tf.image.crop_to_bounding_box(image, *tf.unstack(window))

    return tf.cond(is_stored_upright, of_jpeg, of_other)


def _window(shape: tf.Tensor, seed: tf.Tensor, options: Augmentation) -> tf.Tensor:
    """int32 [4]: top, left, height and width of a random part of an image of this shape."""
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        tf.zeros([1, 0, 4]),
        seed,
        min_object_covered=0.0,
        aspect_ratio_range=(options.aspect_min, options.aspect_max),
        area_range=(options.area_min, options.area_max),
        max_attempts=CROP_TRIES,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], size[:2]], 0)


def change_pixels(
    crop: np.ndarray, draws: np.ndarray, options: Augmentation, image: np.ndarray
) -> None:
    """Resizes a crop into `image`, flips, rotates and colors it as `draws` from `_ranges` say."""
    mirrored, kind, *values = draws
    if kind < options.rotate_probability:
        colors = kernels.ORDER_A
    elif kind < options.rotate_probability + options.color_probability:
        colors = kernels.ORDER_B
    else:
        colors = kernels.KEEP
    kernels.augment(crop, image, mirrored < options.flip_probability, colors, *values)


def _ranges(options: Augmentation) -> list[tuple[float, float]]:
    """Of the draws of `change_pixels`: mirror, kind, and what `kernels.augment` takes."""
    radians = math.radians(options.rotate_degrees)
    return [
        (0.0, 1.0),
        (0.0, 1.0),
        (-radians, radians),
        (-options.brightness, options.brightness),
        (options.saturation_min, options.saturation_max),
        (-options.hue, options.hue),
        (options.contrast_min, options.contrast_max),
    ]
