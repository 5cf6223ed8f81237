"""Pictures made ready for the network in batches, in order, by threads beside the network.

Pillow and TensorFlow release Python's lock, so threads keep every core busy. A picture that cannot
be read keeps its place in its batch, with the reason: batches then hold the same pictures whether
a run was interrupted or not, and so give the same numbers.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from data.common.errors import UserError
from data.common.image_memory import MAX_IMAGE_BYTES
from data.common.images import MAX_PIXELS, ImageError, decoded
from data.input import preprocess
from data.input.image_source import LoadError, Picture

MAX_ASPECT = 64
"""How many times as long as wide a picture may be; of longer ones the middle is taken."""

_BATCHES_AHEAD = 2
_STRIP_ROWS = 512


class Preparation:
    """From encoded bytes to what the network takes (spec section 5, inference).

    Args:
      image_size: side S of a crop in pixels.
      ten_crop: ten crops, not the centre alone.
      max_pixels: larger pictures are refused.
      max_image_bytes: what decoding may take, of all threads together.
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
        # One graph for pictures of any size: a call costs one operation, and no Python inside.
        # Traced here: threads that all came first would make TensorFlow warn of retracing.
        self._to_crops = tf.function(
            lambda image: preprocess.inference_crops(image, image_size, self.crops),
            autograph=False,
            input_signature=[tf.TensorSpec([None, None, preprocess.CHANNELS], tf.uint8)],
        ).get_concrete_function()

    def __call__(self, data: bytes) -> np.ndarray:
        """The crops in [-1, 1], float32 [crops, S, S, 3].

        Raises:
          ImageError: not a whole picture within the limit.
        """
        with decoded(data, *self._limits) as image:
            return self._to_crops(tf.constant(_pixels(_shortened(image)))).numpy()


def load_all(pictures: Iterable[Picture], prepare: Preparation) -> tuple[list[bytes], np.ndarray]:
    """A few pictures' encoded bytes, and their crops one after another.

    Raises:
      UserError: one of them cannot be read.
    """
    encoded, crops = [], []
    for picture in pictures:
        try:
            encoded.append(picture.load().data)
            crops.append(prepare(encoded[-1]))
        except (LoadError, ImageError) as error:
            raise UserError(f"{picture.name}: {error}") from error
    return encoded, np.concatenate(crops)


def to_image(crop: np.ndarray) -> Image.Image:
    """A crop as the network takes it, float32 [S, S, 3] in [-1, 1], for people to look at."""
    return Image.fromarray(np.rint((crop + 1) * 127.5).clip(0, 255).astype(np.uint8))


def _pixels(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3], made in strips: at once, it would take twice its memory for a while."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _STRIP_ROWS):
        bottom = min(top + _STRIP_ROWS, image.height)
        pixels[top:bottom] = image.crop((0, top, image.width, bottom))
    return pixels


def _shortened(image: Image.Image) -> Image.Image:
    """The middle of a picture that is a line: resized in proportion, it would fill the memory."""
    limit = MAX_ASPECT * min(image.size)
    width, height = (min(side, limit) for side in image.size)
    if (width, height) == image.size:
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


class Prepared(NamedTuple):
    """A picture's name and label, and its crops or why there are none ("" if there are)."""

    name: str
    label: str
    crops: np.ndarray | None
    problem: str


class PictureBatch(NamedTuple):
    """Pictures [B] with their crops, float32 [B, crops, S, S, 3]; zero where unreadable."""

    pictures: list[Prepared]
    crops: np.ndarray


def batches(
    pictures: Iterable[Picture],
    prepare: Preparation,
    batch_size: int,
    threads: int,
) -> Iterator[PictureBatch]:
    """Batches of at most `batch_size` pictures in order; the last one may be smaller.

    Args:
      pictures: not opened yet.
      prepare: makes crops of encoded bytes.
      batch_size: in pictures. At most two batches are prepared ahead of the network.
      threads: that read, decode and prepare.
    """
    prepared = _ahead(pictures, prepare, threads, _BATCHES_AHEAD * batch_size)
    while chunk := list(itertools.islice(prepared, batch_size)):
        crops = np.zeros((len(chunk), *prepare.shape), np.float32)
        for slot, picture in zip(crops, chunk, strict=True):
            if picture.crops is not None:
                slot[...] = picture.crops
        yield PictureBatch(chunk, crops)


def _ahead(
    pictures: Iterable[Picture], prepare: Preparation, threads: int, limit: int
) -> Iterator[Prepared]:
    waiting: deque[Future[Prepared]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prepare")
    try:
        for picture in pictures:
            waiting.append(pool.submit(_prepare, picture, prepare))
            if len(waiting) >= limit:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare(picture: Picture, prepare: Preparation) -> Prepared:
    name, label = picture.name, picture.label
    try:
        name, label, data = picture.load()
        return Prepared(name, label, prepare(data), "")
    except (LoadError, ImageError) as error:
        return Prepared(name, label, None, str(error))
