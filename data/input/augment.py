"""Random augmentation of training images: spec section 5.

    encoded image -> crop_function -> crop, uniform numbers -> draw_params -> augment -> image

Every random number depends only on the pair (seed, sample index), so an image does not depend on
threads or workers. To add an augmentation, write a function and add a line to `ADDED`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import threading
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from data.common.errors import UserError
from data.input import exif_ops, kernels, preprocess
from data.input.preprocess import CHANNELS
from data.input.randaugment import rand_augment

CPU = "CPU:0"  # images are made here, whatever device runs the network
CROP_TRIES = 100
_TRACING = threading.Lock()  # all threads request the same function at once; trace it only once
# Added to the seed, so that an image's draws for different purposes are independent.
CROP_SEED, PARAMS_SEED, RANDAUGMENT_SEED = (number << 40 for number in range(3))


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The augmentations and their ranges; the fields are the flags of the same name.

    A fraction `rotate_probability` of the images is rotated and gets color order A (brightness,
    saturation, hue, contrast), a fraction `color_probability` gets order B (brightness, contrast,
    saturation, hue), and the rest keep their colors; the defaults match the released draw from
    {0, 1, 2}. RandAugment, if enabled, comes last.

    Raises:
        UserError: a range is invalid, or these two probabilities add up to more than 1.
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
                raise UserError(f"--{name}_min={low} to --{name}_max={high} is not a valid range")
        if self.rotate_probability + self.color_probability > 1 + 1e-6:
            raise UserError(
                f"--rotate_probability={self.rotate_probability} and --color_probability="
                f"{self.color_probability} are fractions of the same images: together at most 1"
            )


def make_images(
    contents: Sequence[bytes], seeds: np.ndarray, options: Augmentation, images: np.ndarray
) -> None:
    """Decodes, crops and augments a few images.

    Args:
        contents: encoded images [n].
        seeds: int64 [n, 2], the run's seed and the sample index.
        options: what is drawn.
        images: float32 [n, S, S, 3], filled with the results, in [-1, 1].

    Raises:
        tf.errors.OpError: an image cannot be decoded.
    """
    with tf.device(CPU):
        uniforms, *crops = crop_function(options, len(contents))(tf.constant(contents), seeds)
        params = draw_params(uniforms.numpy(), seeds, options)
        for crop, values, image in zip(crops, params, images, strict=True):
            augment(np.asarray(memoryview(crop)), values, image)


def crop_function(options: Augmentation, count: int) -> Callable[..., list[tf.Tensor]]:
    """A TensorFlow function that draws uniform numbers for `count` images and crops them.

    It maps encoded images [count] and seeds [count, 2] to float32 [count, D] in [0, 1) and the
    crops, uint8 [h, w, 3] each. It processes several images, because a call costs a tenth of the
    time of an image.
    """
    with _TRACING:
        return _traced(options, count)


@functools.lru_cache(maxsize=8)
def _traced(options: Augmentation, count: int) -> Callable[..., list[tf.Tensor]]:
    # Traced once for all images, and not inlined: otherwise each thread would spend seconds and
    # 100 MB on optimizing one large graph before the first batch.
    @tf.function(autograph=False, experimental_attributes={"_noinline": True})
    def crop_one(contents: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        uniforms = tf.random.stateless_uniform([len(_RULES)], _salted(seed, PARAMS_SEED))
        return uniforms, random_crop(contents, _salted(seed, CROP_SEED), options)

    def crop_all(contents: tf.Tensor, seeds: tf.Tensor) -> list[tf.Tensor]:
        with tf.device(CPU):
            pairs = zip(tf.unstack(contents), tf.unstack(seeds), strict=True)
            uniforms, crops = zip(*(crop_one(*pair) for pair in pairs), strict=True)
            return [tf.stack(uniforms), *crops]

    signature = [tf.TensorSpec([count], tf.string), tf.TensorSpec([count, 2], tf.int64)]
    return tf.function(crop_all, signature, autograph=False).get_concrete_function()


def _salted(seed: tf.Tensor, salt: int) -> tf.Tensor:
    return seed + tf.constant([salt, 0], tf.int64)


def random_crop(contents: tf.Tensor, seed: tf.Tensor, options: Augmentation) -> tf.Tensor:
    """A random crop, uint8 [h, w, 3], of the upright image; all of it if no attempt fits.

    Args:
        contents: string scalar, an encoded image.
        seed: int64 [2].
    """
    is_stored_upright = tf.io.is_jpeg(contents) & (exif_ops.orientation(contents) == 1)

    def of_jpeg() -> tf.Tensor:
        window = _window(tf.io.extract_jpeg_shape(contents), seed, options)
        return tf.io.decode_and_crop_jpeg(contents, window, CHANNELS, dct_method="INTEGER_FAST")

    # Not inlined: otherwise its hundreds of operations would be traversed for upright images, too.
    @tf.function(autograph=False, experimental_attributes={"_noinline": True})
    def of_other() -> tf.Tensor:
        image = exif_ops.upright(preprocess.decode(contents), contents)
        window = _window(tf.shape(image), seed, options)
        return tf.image.crop_to_bounding_box(image, *tf.unstack(window))

    return tf.cond(is_stored_upright, of_jpeg, of_other)


def _window(shape: tf.Tensor, seed: tf.Tensor, options: Augmentation) -> tf.Tensor:
    """int32 [4]: top, left, height and width of a random crop of an image of this shape."""
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


def _between(low: float, high: float, uniform: np.ndarray) -> np.ndarray:
    low, high = np.float32(low), np.float32(high)
    return uniform * (high - low) + low


def _angle(uniform: np.ndarray, options: Augmentation) -> np.ndarray:
    radians = math.radians(options.rotate_degrees)
    return _between(-radians, radians, uniform)


def _colors(uniform: np.ndarray, options: Augmentation) -> np.ndarray:
    rotated = options.rotate_probability
    kinds = np.where(uniform < rotated + options.color_probability, kernels.ORDER_B, kernels.KEEP)
    return np.where(uniform < rotated, kernels.ORDER_A, kinds)


def _rand_augment(image: np.ndarray, params: np.void) -> None:
    if layers := params["randaugment_layers"]:
        seed = np.array([params["seed"] + RANDAUGMENT_SEED, params["sample_index"]])
        function = _rand_augment_function(int(layers), float(params["randaugment_magnitude"]))
        image[...] = function(image, seed)


@functools.lru_cache(maxsize=4)
def _rand_augment_function(layers: int, magnitude: float) -> Callable[..., tf.Tensor]:
    def change(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        with tf.device(CPU):
            return rand_augment((image + 1.0) / 2.0, seed, layers, magnitude) * 2.0 - 1.0

    return tf.function(change, autograph=False)


Rule = Callable[[np.ndarray, Augmentation], np.ndarray | float]
# The parameters drawn for each image: name -> function of uniform numbers in [0, 1), float32 [n],
# and of the options.
RELEASED: dict[str, Rule] = {
    "mirror": lambda u, o: u < o.flip_probability,
    "colors": _colors,
    "angle": _angle,
    "brightness": lambda u, o: _between(-o.brightness, o.brightness, u),
    "saturation": lambda u, o: _between(o.saturation_min, o.saturation_max, u),
    "hue": lambda u, o: _between(-o.hue, o.hue, u),
    "contrast": lambda u, o: _between(o.contrast_min, o.contrast_max, u),
}
# Augmentations that the released system did not have. Each changes an image, float32 [S, S, 3] in
# [-1, 1], in place, according to its own parameters. Append new ones at the end: then the numbers
# drawn for the others do not change, and runs resume exactly.
ADDED: tuple[tuple[Callable[[np.ndarray, np.void], None], dict[str, Rule]], ...] = (
    (
        _rand_augment,
        {
            "randaugment_layers": lambda u, o: o.randaugment_layers,
            "randaugment_magnitude": lambda u, o: o.randaugment_magnitude,
        },
    ),
)


def draw_params(uniforms: np.ndarray, seeds: np.ndarray, options: Augmentation) -> np.ndarray:
    """The parameters of images, `PARAMS` [n], for uniform numbers [n, D] and seeds [n, 2]."""
    params = np.empty(len(uniforms), PARAMS)
    params["seed"], params["sample_index"] = seeds.T
    for column, (name, rule) in enumerate(_RULES.items()):
        params[name] = rule(uniforms[:, column], options)
    return params


def augment(image: np.ndarray, params: np.void, out: np.ndarray) -> None:
    """Turns a crop into a training image.

    Args:
        image: uint8 [h, w, 3].
        params: from `draw_params`.
        out: float32 [S, S, 3], filled with the result, in [-1, 1].
    """
    kernels.augment(image, params, out)
    for change, _ in ADDED:
        change(out, params)


def _params_type() -> np.dtype:
    none, options = np.zeros(1, np.float32), Augmentation()
    fields = [(name, np.asarray(rule(none, options)).dtype) for name, rule in _RULES.items()]
    return np.dtype([("seed", np.int64), ("sample_index", np.int64), *fields], align=True)


_RULES = RELEASED | {name: rule for _, rules in ADDED for name, rule in rules.items()}
PARAMS = _params_type()
"""The parameters of one image: its seeds, and the values drawn for `RELEASED` and `ADDED`."""
