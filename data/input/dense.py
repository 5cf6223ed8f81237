"""Training and evaluation input for detection and segmentation: records of data/dense/records.py.

Record order, threads and the handling of bad records are the same as in pipeline.py. Each image of
a batch is a function of the seed and its sample index; dense_images.py makes it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from data.common.errors import UserError
from data.common.images import ImageError
from data.common.parallel import map_ahead
from data.common.sharding import StepShard
from data.dense.records import DenseSample, decode_boxes, decode_mask
from data.input.dense_images import (
    cropped,
    decode,
    detection_image,
    flipped,
    mask_classes,
    padded,
    resized,
    rounded_up,
    segmentation_image,
)
from data.input.loader import IndexedSample, SampleReader, StepPlan, aligned, load, to_tensor
from data.input.preprocess import CHANNELS
from data.input.sampler import shuffled
from data.tfrecords.examples import Features
from data.tfrecords.reading import DEFAULT_READING, ReadOptions
from data.tfrecords.record_source import RecordSource
from data.tfrecords.records import RecordError

BOXES_MULTIPLE = 8  # boxes are padded to a multiple, so that a compiled step sees few shapes
IMAGES_AHEAD = 2  # prefetched per thread in evaluations
_SEED = 0x64656E73  # so that draws differ from those of the sampler, which uses the same seed


@dataclasses.dataclass(frozen=True)
class DenseOptions:
    """What to read and how; plain fields are the flags of the same name (units there)."""

    data_dir: str
    class_num: int = 20
    num_preprocess_threads: int = 4
    file_shuffle_buffer: int = 1500
    shuffle_buffer: int = 2048
    random_seed: int = 1234
    max_bad_records: int = 100
    flip_probability: float = 0.5
    reading: ReadOptions = DEFAULT_READING


@dataclasses.dataclass(frozen=True)
class DetectionInputOptions(DenseOptions):
    """The short side of images is resized to `min_side` pixels, the long one to at most `max_side`.

    Raises:
        UserError: `min_side` is not in 1..max_side.
    """

    min_side: int = 600
    max_side: int = 1000

    def __post_init__(self) -> None:
        if not 0 < self.min_side <= self.max_side:
            raise UserError(f"--min_side={self.min_side} is not in 1..--max_side={self.max_side}")


@dataclasses.dataclass(frozen=True)
class SegmentationInputOptions(DenseOptions):
    """Images are scaled by a factor in [scale_min, scale_max) and cropped to `crop_size` pixels.

    Raises:
        UserError: the scale range is invalid.
    """

    class_num: int = 21
    crop_size: int = 513
    scale_min: float = 0.5
    scale_max: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.scale_min <= self.scale_max:
            raise UserError(
                f"--scale_min={self.scale_min} to --scale_max={self.scale_max} is not a valid range"
            )


class DetectionBatch(NamedTuple):
    """A micro-batch of B images with up to N objects, without the difficult ones.

    Images are padded with 0 at the bottom and right to multiples of 32 pixels. Boxes are
    (y1, x1, y2, x2) in pixels of the resized image, padded with 0; classes are padded with -1.
    """

    images: tf.Tensor  # float32 [B, H, W, 3] in [-1, 1]
    sizes: tf.Tensor  # int32 [B, 2]: height and width without the padding
    boxes: tf.Tensor  # float32 [B, N, 4], N a multiple of 8
    classes: tf.Tensor  # int32 [B, N]
    sample_index: tf.Tensor  # int64 [B]


class SegmentationBatch(NamedTuple):
    """A micro-batch of B crops of S x S pixels; masks hold classes (0 background, 255 ignored)."""

    images: tf.Tensor  # float32 [B, S, S, 3] in [-1, 1]
    masks: tf.Tensor  # int32 [B, S, S]
    sample_index: tf.Tensor  # int64 [B]


class DetectionImage(NamedTuple):
    """An image to evaluate on, resized for the network, with its true boxes."""

    number: int  # among all records
    name: str
    image: tf.Tensor  # float32 [1, H, W, 3], padded as in `DetectionBatch`
    sizes: tf.Tensor  # int32 [1, 2]: height and width without the padding
    scale: np.ndarray  # float32 [4]: network boxes / scale = boxes in pixels of the stored image
    size: tuple[int, int]  # height and width of the stored image
    boxes: np.ndarray  # float32 [N, 4]: (y1, x1, y2, x2) in pixels of the stored image
    classes: np.ndarray  # int32 [N]
    difficult: np.ndarray  # bool [N]


class SegmentationImage(NamedTuple):
    """An uncropped image to evaluate on, at its own size (height, width), with its true mask."""

    number: int
    name: str
    image: tf.Tensor  # float32 [1, H, W, 3]
    size: tuple[int, int]
    mask: np.ndarray  # int32 [H, W]


def _source(
    options: DenseOptions, split: str, parse: Callable[[Features, int], DenseSample]
) -> RecordSource:
    limits = options.class_num, options.max_bad_records
    return RecordSource(options.data_dir, *limits, split, parse, options.reading)


class DenseInput:
    """An endless stream of micro-batches from this worker's part of the records.

    The subclass for a task defines `parse` (see `RecordSource`), `_example`, which turns a sample
    into a training example in a thread, and `_batch`, which batches the examples.

    Args:
        options: what to read.
        step_shard: this worker's part of every step.

    Attributes:
        records: number of records, over all workers.

    Raises:
        UserError: see `RecordSource`; or the records are for the other task.
    """

    parse: Callable[[Features, int], DenseSample]

    def __init__(self, options: DenseOptions, step_shard: StepShard):
        self._options, self._step_shard = options, step_shard
        source = _source(options, "train", self.parse)
        self.records = source.total
        windows = options.file_shuffle_buffer, options.shuffle_buffer
        sampler = shuffled(source, options.random_seed, windows, step_shard)
        self._reader = SampleReader(source, sampler.records)

    def batches(self, start: int = 0) -> Iterator[Any]:
        """Micro-batches from sample index `start`, the number of samples all workers have used."""
        shard = self._step_shard
        plan = StepPlan(
            functools.partial(shard.sample_indices, start),
            shard.micro_batch,
            shard.count,
            new_images=lambda: np.empty(shard.micro_batch, object),
            group_size=1,
        )
        parts = load(self._reader, self._make_examples, plan, self._options.num_preprocess_threads)
        with contextlib.closing(parts):
            for part in parts:
                yield self._batch(part.images)

    def _make_examples(self, samples: Sequence[IndexedSample], examples: np.ndarray) -> None:
        for row, (sample_index, sample) in enumerate(samples):
            examples[row] = self._example(sample, sample_index)

    def _example(self, sample: DenseSample, sample_index: int) -> Any:
        raise NotImplementedError

    def _batch(self, examples: Sequence[Any]) -> Any:
        raise NotImplementedError


class _Boxes(NamedTuple):
    """A resized training image, float32 [h, w, 3] in [0, 255], and its objects [N]."""

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    sample_index: int


class DetectionInput(DenseInput):
    """An endless stream of `DetectionBatch`es: resized images, flipped left-right at random.

    Args, attributes, errors: see `DenseInput`; options are `DetectionInputOptions`.
    """

    parse = staticmethod(decode_boxes)

    def _example(self, sample: DenseSample, sample_index: int) -> _Boxes:
        options = self._options
        image, scale = resized(decode(sample.image), options.min_side, options.max_side)
        boxes = sample.boxes[~sample.difficult] * scale
        if _draws(options.random_seed, sample_index, 1)[0] < options.flip_probability:
            image, boxes = image[:, ::-1], flipped(boxes, image.shape[1])
        return _Boxes(image, boxes, sample.classes[~sample.difficult], sample_index)

    def _batch(self, examples: Sequence[_Boxes]) -> DetectionBatch:
        images, sizes = padded([example.image for example in examples])
        most = max(BOXES_MULTIPLE, *(len(example.boxes) for example in examples))
        count = rounded_up(most, BOXES_MULTIPLE)
        boxes = np.zeros((len(examples), count, 4), np.float32)
        classes = np.full((len(examples), count), -1, np.int32)
        for row, example in enumerate(examples):
            boxes[row, : len(example.boxes)] = example.boxes
            classes[row, : len(example.boxes)] = example.classes
        return DetectionBatch(
            images, sizes, *map(tf.constant, (boxes, classes)), _indices(examples)
        )


class _Crop(NamedTuple):
    """A training crop float32 [S, S, 3] in [-1, 1], and its mask, uint8 [S, S]."""

    image: np.ndarray
    mask: np.ndarray
    sample_index: int


class SegmentationInput(DenseInput):
    """An endless stream of `SegmentationBatch`es: images and masks scaled, cropped and flipped.

    Args, attributes, errors: see `DenseInput`; options are `SegmentationInputOptions`.
    """

    parse = staticmethod(decode_mask)

    def _example(self, sample: DenseSample, sample_index: int) -> _Crop:
        options = self._options
        image = decode(sample.image)
        mask = mask_classes(sample.mask, options.class_num, image.shape[:2])
        draws = _draws(options.random_seed, sample_index, 4)
        factor = options.scale_min + draws[0] * (options.scale_max - options.scale_min)
        crop = cropped(image, mask, factor, options.crop_size, draws[1:3])
        if draws[3] < options.flip_probability:
            crop = (array[:, ::-1] for array in crop)
        return _Crop(*crop, sample_index)

    def _batch(self, examples: Sequence[_Crop]) -> SegmentationBatch:
        size = self._options.crop_size
        images = aligned((len(examples), size, size, CHANNELS))
        for image, example in zip(images, examples, strict=True):
            image[...] = example.image
        masks = np.stack([example.mask for example in examples]).astype(np.int32)
        return SegmentationBatch(to_tensor(images), tf.constant(masks), _indices(examples))


class DenseImages:
    """The images of evaluation records, in order.

    Args:
        options: what to read; nothing is random.

    Attributes:
        records: number of records.

    Raises:
        UserError: see `RecordSource`; or the records are for the other task.
    """

    parse: Callable[[Features, int], DenseSample]

    def __init__(self, options: DenseOptions):
        self._options = options
        self._source = _source(options, "val", self.parse)
        self.records = self._source.total

    def images(self, rank: int = 0, size: int = 1) -> Iterator[Any]:
        """Every `size`-th image from the `rank`-th on; bad ones are logged, counted and skipped.

        Raises:
            UserError: too many images are bad.
        """
        threads = self._options.num_preprocess_threads
        numbers = range(rank, self.records, size)
        found = map_ahead(self._read, numbers, threads, IMAGES_AHEAD * threads)
        with contextlib.closing(found):
            for number, image in zip(numbers, found, strict=True):
                if isinstance(image, UserError):
                    self._source.reject(number, str(image))
                else:
                    yield image

    def _read(self, number: int) -> Any:
        """The image of a record, or the error for `images` to count; runs in threads."""
        try:
            sample = self._source.read(number)
            name = sample.name.decode("utf-8", "replace") or self._source.where(number)
            return self._image(number, name, sample)
        except (RecordError, ImageError) as error:
            return error

    def _image(self, number: int, name: str, sample: DenseSample) -> Any:
        raise NotImplementedError


class DetectionImages(DenseImages):
    """`DetectionImage`s; see `DenseImages`. Options are `DetectionInputOptions`."""

    parse = staticmethod(decode_boxes)

    def _image(self, number: int, name: str, sample: DenseSample) -> DetectionImage:
        inputs = detection_image(sample.image, self._options.min_side, self._options.max_side)
        return DetectionImage(number, name, *inputs, sample.boxes, sample.classes, sample.difficult)


class SegmentationImages(DenseImages):
    """`SegmentationImage`s; see `DenseImages`. Options are `SegmentationInputOptions`."""

    parse = staticmethod(decode_mask)

    def _image(self, number: int, name: str, sample: DenseSample) -> SegmentationImage:
        image, size = segmentation_image(sample.image)
        mask = mask_classes(sample.mask, self._options.class_num, size)
        return SegmentationImage(number, name, image, size, mask.astype(np.int32))


def _draws(seed: int, sample_index: int, count: int) -> np.ndarray:
    """Uniform random numbers of a sample, float64 [count] in [0, 1)."""
    # A seed gives the same draws in any NumPy version, so a resumed run draws the same.
    parts = seed, _SEED, sample_index, sample_index >> 32
    return np.random.RandomState([part & 0xFFFFFFFF for part in parts]).random_sample(count)


def _indices(examples: Sequence[Any]) -> tf.Tensor:
    return tf.constant([example.sample_index for example in examples], tf.int64)
