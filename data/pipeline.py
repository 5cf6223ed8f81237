"""The input pipeline: from record files to batches, for training and for evaluation.

    position -> record (data/order.py) -> bytes (data/record_source.py) -> image -> batch

A batch is a pure function of the options and of its position in the order of training: neither
threads, restarts nor the number of workers change it. No buffer of data is shuffled; encoded
records of a few batches are all that is held besides the batches themselves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data import preprocessing
from data.order import RecordOrder, worker_start
from data.preprocessing import Augmentation
from data.record_source import BadRecords, InputError, RecordSource, pad_labels
from data.steps import Slot, Steps

__all__ = ["Augmentation", "Batch", "EvaluationInput", "InputError", "InputOptions", "TrainingInput"]

SYNTHETIC_LABELS = 9  # an image, as in ML-Images (spec section 1: 8.72)


@dataclasses.dataclass(frozen=True)
class InputOptions:
    """What to read and how; the fields are the flags of the same name (units there)."""

    data_dir: str
    image_size: int = 224
    batch_size: int = 512
    accumulate_steps: int = 1
    class_num: int = 1000
    num_preprocess_threads: int = 4
    file_shuffle_buffer: int = 1500
    shuffle_buffer: int = 2048
    random_seed: int = 1234
    max_bad_records: int = 100
    synthetic: bool = False


class Batch(NamedTuple):
    """One micro-batch of B images; A of them make a step of this worker.

    Labels are padded-sparse: class indices padded with -1, and their values (0 in the padding, -1
    where the label is unknown).
    """

    images: tf.Tensor  # float32 [B, image_size, image_size, 3] in [-1, 1]
    label_index: tf.Tensor  # int32 [B, K]
    label_value: tf.Tensor  # float32 [B, K]
    step_index: tf.Tensor  # int32 [A * B, K], the labels of the whole step
    step_value: tf.Tensor  # float32 [A * B, K]
    names: tf.Tensor  # string [B]
    valid: tf.Tensor  # bool [B]; False: padding, or unreadable, in evaluation


class TrainingInput:
    """Augmented batches without end, of this worker's share of the records.

    Args:
        options: see there.
        augmentation: the random changes.
        rank, size: of this worker, of how many.

    Raises:
        InputError: see `RecordSource`.
    """

    def __init__(
        self, options: InputOptions, augmentation: Augmentation, rank: int = 0, size: int = 1
    ):
        self._options, self._rank, self._size = options, rank, size
        self._worker_batch = options.batch_size * options.accumulate_steps
        if options.synthetic:
            self.records = self._worker_batch * size
            return
        self._bad = BadRecords(options.max_bad_records)
        source = RecordSource(options.data_dir, options.class_num, self._bad)
        self.records = source.total
        order = RecordOrder(
            source.counts, options.random_seed, options.file_shuffle_buffer, options.shuffle_buffer
        )

        def prepare(contents: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
            seed = tf.stack([tf.constant(options.random_seed, tf.int64), position])
            return preprocessing.training_image(contents, seed, options.image_size, augmentation)

        self._steps = _make_steps(source, order.records, prepare, options)

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """Micro-batches from position `start`: the number of records that all workers have used."""
        if self._options.synthetic:
            yield from _synthetic(self._options, self._rank)

        def positions(step: int) -> np.ndarray:
            first = start + worker_start(step, self._rank, self._size, self._worker_batch)
            return np.arange(first, first + self._worker_batch)

        for slots, images in self._steps.run(positions, None):
            index, value = (tf.constant(part) for part in pad_labels([s.sample for s in slots]))
            yield from _micro_batches(images, index, value, slots, tf.ones([len(slots)], tf.bool))


class EvaluationInput:
    """Every record once, in order, over all workers, in equally many batches on each.

    `batch_size` counts; accumulation does not. See `TrainingInput` for arguments and errors.
    """

    def __init__(self, options: InputOptions, rank: int = 0, size: int = 1):
        self._options = dataclasses.replace(options, accumulate_steps=1)
        self._rank, self._size = rank, size
        self._bad = BadRecords(options.max_bad_records)
        source = RecordSource(options.data_dir, options.class_num, self._bad)
        self.records = source.total

        def record_at(position: int, count: int) -> np.ndarray:
            return np.arange(position, position + count) % source.total

        def prepare(contents: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
            del position
            image = preprocessing.decode(contents)
            return preprocessing.inference_crops(image, options.image_size)[0]

        self._steps = _make_steps(source, record_at, prepare, self._options)

    def batches(self) -> Iterator[Batch]:
        """This worker's batches; the last ones are padded (`Batch.valid` is False there)."""
        batch_size = self._options.batch_size

        def positions(step: int) -> np.ndarray:
            first = worker_start(step, self._rank, self._size, batch_size)
            return np.arange(first, first + batch_size)

        steps = -(-self.records // (batch_size * self._size))
        for step, (slots, images) in enumerate(self._steps.run(positions, steps)):
            wanted = positions(step)
            used = np.array([slot.position for slot in slots])
            index, value = (tf.constant(part) for part in pad_labels([s.sample for s in slots]))
            valid = tf.constant((used == wanted) & (wanted < self.records))
            yield from _micro_batches(images, index, value, slots, valid)


def _micro_batches(
    images: list[tf.Tensor],
    index: tf.Tensor,
    value: tf.Tensor,
    slots: list[Slot],
    valid: tf.Tensor,
) -> Iterator[Batch]:
    size = len(slots) // len(images)
    names = tf.constant([slot.sample.name for slot in slots])
    for number, part in enumerate(images):
        rows = slice(number * size, (number + 1) * size)
        yield Batch(part, index[rows], value[rows], index, value, names[rows], valid[rows])


def _synthetic(options: InputOptions, rank: int) -> Iterator[Batch]:
    """The same made-up micro-batch for ever, to measure compute alone."""
    rng = np.random.default_rng((options.random_seed & 0xFFFFFFFF, rank))
    size, count = options.batch_size, options.batch_size * options.accumulate_steps
    shape = size, options.image_size, options.image_size, preprocessing.CHANNELS
    index = rng.integers(options.class_num, size=(count, SYNTHETIC_LABELS), dtype=np.int32)
    index, value = tf.constant(index), tf.ones(index.shape)
    batch = Batch(
        tf.constant(rng.uniform(-1, 1, shape).astype(np.float32)),
        index[:size],
        value[:size],
        index,
        value,
        tf.fill([size], "synthetic"),
        tf.ones([size], tf.bool),
    )
    while True:
        yield batch
