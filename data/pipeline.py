"""The one input pipeline: TFRecords to batches, for training and for evaluation.

The order of stages, and why:
  1. steps -> records of this worker: read by position, so a resume starts anywhere at once;
  2. micro-batches of encoded pictures: nothing decoded is ever buffered but finished batches;
  3. decode and augment, in parallel, each picture by a seed of its own position;
  4. a picture that cannot be decoded gives its place to a neighbour, so that batches keep their
     size and positions stay what they are; it is counted and named.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from data import preprocessing
from data.order import RecordOrder, worker_start
from data.preprocessing import Augmentation
from data.record_reader import InputError, RecordReader
from data.shares import Share

__all__ = ["Batch", "EvaluationInput", "InputError", "InputOptions", "TrainingInput"]

STEPS_READ_AHEAD = 2
BATCHES_DECODED_TOGETHER = 2
ENDLESS = np.iinfo(np.int64).max
SYNTHETIC_LABELS = 9  # tags of an image of ML-Images (8.72 on average)


@dataclasses.dataclass(frozen=True)
class InputOptions:
    """The fields are the flags of the same name."""

    data_dir: str
    image_size: int = 224
    batch_size: int = 512
    class_num: int = 1000
    num_preprocess_threads: int = 4
    file_shuffle_buffer: int = 1500
    shuffle_buffer: int = 2048
    random_seed: int = 1234
    max_bad_records: int = 100
    synthetic: bool = False


class Batch(NamedTuple):
    """A micro-batch of B images; K is the most labels of an image in it.

    Attributes:
      images: float32 [B, H, W, 3] in [-1, 1].
      label_index, label_value: int32 and float32 [B, K], padded with -1 and 0.
      step_index, step_value: the labels of this worker's whole step, of all its micro-batches.
      names: bytes [B].
      valid: bool [B]; False pads the last batch of an evaluation.
    """

    images: tf.Tensor
    label_index: tf.Tensor
    label_value: tf.Tensor
    step_index: tf.Tensor
    step_value: tf.Tensor
    names: tf.Tensor
    valid: tf.Tensor


class TrainingInput:
    """Augmented batches without end, of this worker's share of the records.

    Raises:
      InputError: no records, or ones that do not fit.
    """

    def __init__(
        self, options: InputOptions, augmentation: Augmentation, share: Share | None = None
    ) -> None:
        self._options, self._augmentation = options, augmentation
        self._share = share or Share(options.batch_size, first=0, count=1, total=1)
        self._reader = None if options.synthetic else RecordReader(options)
        self.records = self._reader.total if self._reader else options.batch_size
        if self._reader:
            self._order = RecordOrder(
                self._reader.counts,
                options.random_seed,
                options.file_shuffle_buffer,
                options.shuffle_buffer,
            )

    def batches(self, position: int = 0) -> Iterator[Batch]:
        """Micro-batches from `position` on: the records that all workers have consumed."""
        options, share = self._options, self._share
        if self._reader is None:
            return _synthetic(options, share)
        own = share.count * share.micro_batch

        def choose(step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            start = position + step * share.global_batch + share.first * share.micro_batch
            places = np.arange(start, start + own)
            return self._order.records(start, own), places, np.ones(own, bool)

        def decode(jpeg: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
            seed = tf.stack([tf.constant(options.random_seed, tf.int64), place])
            return preprocessing.augment(jpeg, seed, options.image_size, self._augmentation)

        sizes = share.micro_batch, share.count
        return _run(self._reader, options, ENDLESS, sizes, choose, decode)


class EvaluationInput:
    """Every record once, in the order of the files, split over the workers.

    All workers get batches of one size and number; `valid` marks what is not padding.
    """

    def __init__(self, options: InputOptions, rank: int = 0, size: int = 1) -> None:
        self._options = options
        self._rank, self._size = rank, size
        self._reader = RecordReader(options)
        self.records = self._reader.total

    def batches(self) -> Iterator[Batch]:
        """The batches of one pass."""
        per_step = self._options.batch_size
        steps = -(-self.records // (per_step * self._size))

        def choose(step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            start = worker_start(step, self._rank, self._size, per_step)
            places = np.arange(start, start + per_step)
            return np.minimum(places, self.records - 1), places, places < self.records

        def decode(jpeg: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
            del place
            return preprocessing.central(preprocessing.decode_jpeg(jpeg), self._options.image_size)

        return _run(self._reader, self._options, steps, (per_step, 1), choose, decode)


def _run(
    reader: RecordReader,
    options: InputOptions,
    steps: int,
    sizes: tuple[int, int],
    choose: Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]],
    decode: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
) -> Iterator[Batch]:
    """Batches of what `choose` picks for each step: record ids, positions, whether they count.

    Args:
      sizes: images of a micro-batch, and micro-batches of a step.
    """
    size, micro_batches = sizes

    def read(step: np.ndarray) -> tuple[Any, ...]:
        ids, places, valid = choose(int(step))
        return (*reader.read(ids), places, valid)

    def read_step(step: tf.Tensor) -> tuple[tf.Tensor, ...]:
        types = [tf.string, tf.int32, tf.float32, tf.string, tf.int64, tf.bool]
        jpegs, index, value, names, places, valid = tf.numpy_function(read, [step], types)
        total = size * micro_batches
        for tensor in (jpegs, names, places, valid):
            tensor.set_shape([total])
        for tensor in (index, value):
            tensor.set_shape([total, None])
        return jpegs, index, value, names, places, valid

    def micro_batch(
        number: tf.Tensor, jpegs: tf.Tensor, index: tf.Tensor, value: tf.Tensor, *rest: tf.Tensor
    ) -> tf.data.Dataset:
        begin = tf.cast(number, tf.int32) * size

        def part(tensor: tf.Tensor) -> tf.Tensor:
            return tf.ensure_shape(tensor[begin : begin + size], [size, *tensor.shape[1:]])

        names, places, valid = map(part, rest)
        batch = (part(index), part(value), index, value, names, valid)
        return _decoded(part(jpegs), places, batch, options, decode)

    def micro_batches_of(*step: tf.Tensor) -> tf.data.Dataset:
        numbers = tf.data.Dataset.range(micro_batches)
        return numbers.map(lambda number: (number, *step))

    dataset = (
        tf.data.Dataset.range(steps)
        .map(read_step, num_parallel_calls=STEPS_READ_AHEAD, deterministic=True)
        .flat_map(micro_batches_of)
        .interleave(
            micro_batch,
            cycle_length=BATCHES_DECODED_TOGETHER,
            num_parallel_calls=BATCHES_DECODED_TOGETHER,
            deterministic=True,
        )
        .prefetch(1)
    )
    settings = tf.data.Options()
    settings.threading.private_threadpool_size = options.num_preprocess_threads
    settings.autotune.enabled = False
    return _checked(dataset.with_options(settings), reader, size)


def _decoded(
    jpegs: tf.Tensor,
    places: tf.Tensor,
    batch: tuple[tf.Tensor, ...],
    options: InputOptions,
    decode: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
) -> tf.data.Dataset:
    """One element: the slots that could be decoded, their images, and the rest of the batch.

    A blank image in a slot of its own at the end keeps the batch when no picture can be decoded.
    """
    size = jpegs.shape[0]
    blank = lambda: tf.zeros([options.image_size, options.image_size, 3])  # noqa: E731

    def decode_slot(slot: tf.Tensor, jpeg: tf.Tensor, place: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return slot, tf.cond(slot < size, lambda: decode(jpeg, place), blank)

    slots = tf.range(size + 1)
    jpegs, places = tf.concat([jpegs, [""]], 0), tf.concat([places, [0]], 0)
    return (
        tf.data.Dataset.from_tensor_slices((slots, jpegs, places))
        .map(decode_slot, num_parallel_calls=options.num_preprocess_threads, deterministic=True)
        .ignore_errors()
        .batch(size + 1)
        .map(lambda slots, images: (slots, images, *batch))
    )


def _checked(dataset: tf.data.Dataset, reader: RecordReader, size: int) -> Iterator[Batch]:
    """Batches with the places of bad pictures filled, and these counted and named."""
    iterator = iter(dataset)
    while True:
        try:
            slots, images, index, value, step_index, step_value, names, valid = next(iterator)
        except StopIteration:
            return
        except tf.errors.OpError as error:
            raise reader.failure or error from None
        if slots.shape[0] == size + 1:
            images = images[:-1]
        else:
            source = _fill(slots.numpy(), size)
            bad = source != np.arange(size)
            reader.note_bad([name.decode() for name in names.numpy()[bad & valid.numpy()]])
            kept = np.minimum(source, size - 1)
            images = tf.gather(images, np.searchsorted(slots.numpy(), source))
            index, value = tf.gather(index, kept), tf.gather(value, kept)
            valid = valid & ~bad
        yield Batch(images, index, value, step_index, step_value, names, valid)


def _fill(slots: np.ndarray, size: int) -> np.ndarray:
    """For each slot of a batch the decoded slot that takes its place: itself, or a neighbour."""
    decoded = slots[slots < size] if slots[0] < size else slots
    wanted = np.arange(size)
    return decoded[np.searchsorted(decoded, wanted, "right").clip(1) - 1]


def _synthetic(options: InputOptions, share: Share) -> Iterator[Batch]:
    random = np.random.default_rng(options.random_seed)
    size, side = share.micro_batch, options.image_size
    images = tf.constant(random.uniform(-1, 1, (size, side, side, 3)), tf.float32)
    labels = min(SYNTHETIC_LABELS, options.class_num)
    index = np.stack([random.permutation(options.class_num)[:labels] for _ in range(size)])
    index, value = tf.constant(index, tf.int32), tf.ones([size, labels])
    step_index = tf.tile(index, [share.count, 1])
    step_value = tf.tile(value, [share.count, 1])
    names, valid = tf.fill([size], b"synthetic"), tf.ones([size], tf.bool)
    logging.info("training on a made-up batch: this measures speed and learns nothing")
    while True:
        yield Batch(images, index, value, step_index, step_value, names, valid)
