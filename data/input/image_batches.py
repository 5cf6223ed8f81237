"""Batches of images for the network, in order; threads prepare them while it computes.

Pillow and TensorFlow release the GIL, so threads keep every core busy. An unreadable image keeps
its place in its batch, with the reason, so that batches hold the same images and give the same
numbers whether or not a run was interrupted.
"""

import contextlib
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from data.common.errors import UserError
from data.common.image_memory import MAX_IMAGE_BYTES
from data.common.images import MAX_PIXELS, ImageError, decoded
from data.common.parallel import map_ahead
from data.input import preprocess
from data.input.image_source import LoadError, SourceImage

MAX_ASPECT = 64
"""Limit on the ratio of an image's sides; only the middle of longer images is used."""

BATCHES_AHEAD = 2
CENTER = 4  # index of the center among ten crops: four corners, center, and their mirrors
_STRIP_ROWS = 512


class Preparation:
    """Turns encoded bytes into the network's input (spec section 5, inference).

    Args:
      image_size: side S of a crop in pixels.
      ten_crop: ten crops instead of the center alone.
      max_pixels: larger images are refused.
      max_image_bytes: memory that decoding may take, over all threads.

    Attributes:
      crops: per image, 1 or 10.
      shape: of the crops of an image, [crops, S, S, 3].
    """

    def __init__(
        self,
        image_size: int,
        ten_crop: bool = False,
        max_pixels: int = MAX_PIXELS,
        max_image_bytes: int = MAX_IMAGE_BYTES,
    ) -> None:
        self.crops = preprocess.TEN_CROPS if ten_crop else 1
        self.shape = (self.crops, image_size, image_size, preprocess.CHANNELS)
        self._limits = max_pixels, max_image_bytes

        def to_crops(image: tf.Tensor) -> tf.Tensor:
            with tf.device("CPU:0"):  # the same pixels everywhere, and no waiting for the GPU
                return preprocess.inference_crops(image, image_size, self.crops)

        # One graph for images of any size: a call costs one operation and runs no Python.
        # Traced here: if several threads traced it, TensorFlow would warn about retracing.
        self._to_crops = tf.function(
            to_crops,
            autograph=False,
            input_signature=[tf.TensorSpec([None, None, preprocess.CHANNELS], tf.uint8)],
        ).get_concrete_function()

    def __call__(self, data: bytes) -> np.ndarray:
        """The crops in [-1, 1], float32 [crops, S, S, 3].

        Raises:
          ImageError: not a complete image, or over the limits.
        """
        with decoded(data, *self._limits) as image:
            return self._to_crops(tf.constant(pixels_of(_shortened(image)))).numpy()

    def stack(self, images: Sequence[np.ndarray | None]) -> np.ndarray:
        """The crops of several images, float32 [B, crops, S, S, 3]; zero where None."""
        stacked = np.zeros((len(images), *self.shape), np.float32)
        for place, crops in zip(stacked, images, strict=True):
            if crops is not None:
                place[...] = crops
        return stacked


class WholeImage:
    """A preparation that leaves images as they are, uint8 [H, W, 3]; for batches of one image.

    Args:
      max_pixels, max_image_bytes: see `Preparation`.
    """

    crops = 1

    def __init__(
        self, max_pixels: int = MAX_PIXELS, max_image_bytes: int = MAX_IMAGE_BYTES
    ) -> None:
        self._limits = max_pixels, max_image_bytes

    def __call__(self, data: bytes) -> np.ndarray:
        """The pixels. Raises ImageError: not a complete image, or over the limits."""
        with decoded(data, *self._limits) as image:
            return pixels_of(image)

    def stack(self, images: Sequence[np.ndarray | None]) -> np.ndarray:
        """uint8 [1, H, W, 3]; a single pixel if the image was unreadable."""
        (image,) = images
        return np.zeros((1, 1, 1, preprocess.CHANNELS), np.uint8) if image is None else image[None]


def load_all(images: Iterable[SourceImage], prepare: Preparation) -> tuple[list[bytes], np.ndarray]:
    """The encoded bytes of a few images, and the crops of all, float32 [crops, S, S, 3].

    Raises:
      UserError: one of them cannot be read.
    """
    encoded, crops = [], []
    for image in images:
        try:
            encoded.append(image.load().data)
            crops.append(prepare(encoded[-1]))
        except (LoadError, ImageError) as error:
            raise UserError(f"{image.name}: {error}") from error
    return encoded, np.concatenate(crops)


def to_image(crop: np.ndarray) -> Image.Image:
    """Converts a crop for the network, float32 [S, S, 3] in [-1, 1], to a viewable image."""
    return Image.fromarray(np.rint((crop + 1) * 127.5).clip(0, 255).astype(np.uint8))


def center_crop(crops: np.ndarray) -> np.ndarray:
    """The center, float32 [S, S, 3], of an image's crops [1 or 10, S, S, 3]."""
    return crops[CENTER % len(crops)]


def center_image(crops: np.ndarray) -> Image.Image:
    """The center of crops, float32 [1 or 10, S, S, 3] in [-1, 1], as a viewable image."""
    return to_image(center_crop(crops))


def pixels_of(image: Image.Image) -> np.ndarray:
    """The pixels, uint8 [H, W, 3]; converted in strips, which halves the peak memory."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _STRIP_ROWS):
        bottom = min(top + _STRIP_ROWS, image.height)
        pixels[top:bottom] = image.crop((0, top, image.width, bottom))
    return pixels


def _shortened(image: Image.Image) -> Image.Image:
    """The middle of an image longer than `MAX_ASPECT`; resizing all of it would fill the memory."""
    limit = MAX_ASPECT * min(image.size)
    width, height = (min(side, limit) for side in image.size)
    if (width, height) == image.size:
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


class Prepared(NamedTuple):
    """A loaded image: its crops, or the reason why there are none."""

    name: str
    label: Any  # from `Loaded`
    crops: np.ndarray | None
    problem: str  # "" if there are crops


class ImageBatch(NamedTuple):
    """Images [B] with their crops, float32 [B, crops, S, S, 3]; zero where unreadable."""

    images: list[Prepared]
    crops: np.ndarray


def batches(
    images: Iterable[SourceImage],
    prepare: Preparation | WholeImage,
    batch_size: int,
    threads: int,
) -> Iterator[ImageBatch]:
    """Batches of at most `batch_size` images in order; the last one may be smaller.

    Args:
      images: not opened yet.
      prepare: makes crops from encoded bytes.
      batch_size: images per batch; at most `BATCHES_AHEAD` batches are prefetched.
      threads: number of threads that read, decode and prepare.
    """
    prepare_one = functools.partial(_prepare, prepare)
    prepared = map_ahead(prepare_one, images, threads, BATCHES_AHEAD * batch_size)
    with contextlib.closing(prepared):
        while chunk := list(itertools.islice(prepared, batch_size)):
            yield ImageBatch(chunk, prepare.stack([image.crops for image in chunk]))


def _prepare(prepare: Preparation, image: SourceImage) -> Prepared:
    name, label = image.name, image.label
    try:
        name, label, data = image.load()
        return Prepared(name, label, prepare(data), "")
    except (LoadError, ImageError) as error:
        return Prepared(name, label, None, str(error))
