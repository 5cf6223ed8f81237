"""Loads the batches of each step: reads samples, decodes and augments their images.

    position -> record -> encoded image -> image -> batch

Nothing here depends on timing: what fills a place is a function of its position. Encoded records of
a few steps and `BATCHES_AHEAD` batches are all that is held.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data.common.memory import Recycler
from data.input.preprocess import CHANNELS
from data.tfrecords.record_source import RecordSource, Sample
from data.tfrecords.records import RecordError

STEPS_READ_AHEAD = 2
BATCHES_AHEAD = 2
MOST_TOGETHER = 8  # images prepared by one call, which costs as much as an image does


class Preparation(NamedTuple):
    """How images are made: by TensorFlow as far as it is quick, then in NumPy, where it is not.

    `decode`: (encoded images, string [n]; positions, int64 [n]) -> tensors; for any static n.
    `write`: (the arrays of those tensors; images, float32 [n, image_size, image_size, 3], to fill).
    """

    decode: Callable[[tf.Tensor, tf.Tensor], list[tf.Tensor]]
    write: Callable[[Sequence[np.ndarray], np.ndarray], None]
    image_size: int


class IndexedSample(NamedTuple):
    """What fills a place of a batch: the first position, from its own on, that can be read."""

    position: int
    sample: Sample


class StepPlan(NamedTuple):
    """What a worker does in its steps.

    `positions(step)` are int64 [micro_batches * batch_size]. There are `steps` of them, without
    end if None.
    """

    positions: Callable[[int], np.ndarray]
    batch_size: int
    micro_batches: int = 1
    steps: int | None = None


class MicroBatch(NamedTuple):
    """Micro-batch `number` of a step: images float32 [batch_size, S, S, 3].

    `samples` are those of the whole step.
    """

    step: int
    number: int
    samples: list[IndexedSample]
    images: tf.Tensor


class SampleReader:
    """Finds the sample of a position, and remembers the positions that have none.

    Args:
        source: of the records.
        record_at: position -> record.
    """

    def __init__(self, source: RecordSource, record_at: Callable[[int], int]):
        self._source, self._record_at = source, record_at
        self._bad: set[int] = set()

    def read(self, position: int) -> IndexedSample:
        """The sample of a position: its record, or what the next position shows.

        Raises:
            UserError: see `RecordSource.read`; or there are too many bad records.
        """
        while True:
            if position not in self._bad:
                try:
                    return IndexedSample(position, self._source.read(self._record_at(position)))
                except RecordError as error:
                    self.reject(position, str(error))
            position += 1

    def read_all(self, positions: list[int]) -> list[IndexedSample]:
        """The samples of positions, fetched at once."""
        self._source.announce(self._record_at(position) for position in positions)
        return [self.read(position) for position in positions]

    def reject(self, position: int, reason: str) -> None:
        """Fill this position by the next one from now on, and count its record as bad."""
        self._bad.add(position)
        self._source.reject(self._record_at(position), reason)


def run(
    reader: SampleReader, preparation: Preparation, plan: StepPlan, threads: int
) -> Iterator[MicroBatch]:
    """Yields the micro-batches of the steps in order.

    An image that does not decode ends the dataset with an error. It is then found and rejected,
    and the dataset begins again with the same micro-batch: this costs a second, but the images
    that decode, nearly all, pay nothing for it.

    Args:
        preparation: makes the images of samples.
        threads: that prepare images.
    """
    step = number = 0
    while plan.steps is None or step < plan.steps:
        dataset = _Dataset(reader, preparation, plan)
        try:
            for images in dataset.batches(step, threads).skip(number):
                yield MicroBatch(step, number, dataset.samples[step], images)
                number += 1
                if number == plan.micro_batches:
                    del dataset.samples[step]
                    step, number = step + 1, 0
        except tf.errors.OpError as error:
            if dataset.error is not None:
                raise dataset.error from None
            if not _reject_undecodable(reader, preparation, plan.positions(step)):
                raise error


def _reject_undecodable(
    reader: SampleReader, preparation: Preparation, positions: np.ndarray
) -> bool:
    found = False
    for indexed in map(reader.read, positions.tolist()):
        try:
            position = tf.constant([indexed.position], tf.int64)
            preparation.decode(tf.constant([indexed.sample.image]), position)
        except tf.errors.OpError as error:
            reader.reject(indexed.position, f"the image does not decode: {_reason(error)}")
            found = True
    return found


def _reason(error: tf.errors.OpError) -> str:
    """The operation's own words, without the names of graph nodes around them."""
    return error.message.split("\n\t [[")[0].splitlines()[-1].split("}} ")[-1].split(" [Op:")[0]


class _Dataset:
    """What one dataset holds outside TensorFlow: the samples and the images of its steps.

    Images are written into the memory of their micro-batch, which TensorFlow takes over as it is,
    rather than copied together: copying would cost a third of what making them does.
    """

    def __init__(self, reader: SampleReader, preparation: Preparation, plan: StepPlan):
        self._reader, self._preparation, self._plan = reader, preparation, plan
        most = min(plan.batch_size, MOST_TOGETHER)
        self._together = next(n for n in range(most, 0, -1) if plan.batch_size % n == 0)
        size = preparation.image_size
        self._shape = plan.batch_size, size, size, CHANNELS
        self._memory = Recycler(self._shape)
        self._images: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()
        self.samples: dict[int, list[IndexedSample]] = {}
        self.error: Exception | None = None

    def batches(self, first_step: int, threads: int) -> tf.data.Dataset:
        """The micro-batches from a step on, float32 [batch_size, S, S, 3]."""
        last_step = np.iinfo(np.int64).max if self._plan.steps is None else self._plan.steps
        dataset = tf.data.Dataset.range(first_step, last_step)
        # Whole steps of encoded records, then a few images at a time.
        dataset = dataset.map(self._load, num_parallel_calls=STEPS_READ_AHEAD).unbatch()
        dataset = dataset.map(self._prepare, num_parallel_calls=2 * threads)
        dataset = dataset.batch(self._plan.batch_size // self._together).map(self._collect)
        options = tf.data.Options()
        options.deterministic = True
        options.threading.private_threadpool_size = threads + STEPS_READ_AHEAD
        # One thread per image: more would only wait for each other.
        options.threading.max_intra_op_parallelism = 1
        return dataset.prefetch(BATCHES_AHEAD).with_options(options)

    def _load(self, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """A few samples per row: number among all rows, encoded images, positions."""

        def load(step: np.int64) -> tuple[np.ndarray, np.ndarray]:
            try:
                samples = self._reader.read_all(self._plan.positions(int(step)).tolist())
            except Exception as error:
                self.error = error  # tf.data would pass it on as a string with a traceback
                raise
            self.samples[int(step)] = samples
            contents = np.array([indexed.sample.image for indexed in samples], object)
            return contents, np.array([indexed.position for indexed in samples], np.int64)

        contents, positions = tf.numpy_function(load, [step], [tf.string, tf.int64])
        rows = self._plan.micro_batches * self._plan.batch_size // self._together
        numbers = step * rows + tf.range(rows, dtype=tf.int64)
        shape = [rows, self._together]
        return numbers, tf.reshape(contents, shape), tf.reshape(positions, shape)

    def _prepare(self, row: tf.Tensor, contents: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
        """Writes the images of a row into their place; returns the number of their micro-batch."""

        def write(row: np.int64, *parts: np.ndarray) -> np.int64:
            number, begin = divmod(int(row) * self._together, self._plan.batch_size)
            with self._lock:
                if number not in self._images:
                    self._images[number] = self._memory.take()
                images = self._images[number][begin : begin + self._together]
            self._preparation.write(parts, images)
            return np.int64(number)

        parts = self._preparation.decode(contents, positions)
        return tf.ensure_shape(tf.numpy_function(write, [row, *parts], tf.int64), [])

    def _collect(self, numbers: tf.Tensor) -> tf.Tensor:
        images = tf.numpy_function(
            lambda numbers: self._images.pop(int(numbers[0])), [numbers], tf.float32
        )
        return tf.ensure_shape(images, self._shape)
