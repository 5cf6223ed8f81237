"""Steps of training or evaluation: the records that fill their slots, and the images of these.

    position -> record -> encoded image -> image -> batch

Nothing here depends on timing: a slot's content is a function of its position. Encoded records of
a few steps and `BATCHES_AHEAD` batches are all that is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data.record_source import RecordSource, Sample
from data.records import RecordError

STEPS_READ_AHEAD = 2
BATCHES_AHEAD = 2
MOST_TOGETHER = 8  # images prepared by one call, which costs as much as an image does

# (encoded images, string [n]; positions, int64 [n]) -> float32 [n, S, S, 3]; a TensorFlow function
# for any static n.
Prepare = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


class Slot(NamedTuple):
    """What fills a place of a batch: the first position, from its own on, that can be read."""

    position: int
    sample: Sample


class Plan(NamedTuple):
    """What a worker does in its steps.

    `positions(step)` are int64 [micro_batches * batch_size]. There are `steps` of them, without
    end if None.
    """

    positions: Callable[[int], np.ndarray]
    batch_size: int
    micro_batches: int = 1
    steps: int | None = None


class Part(NamedTuple):
    """Micro-batch `number` of a step: images float32 [batch_size, S, S, 3].

    `slots` are those of the whole step.
    """

    step: int
    number: int
    slots: list[Slot]
    images: tf.Tensor


class Slots:
    """Finds the sample of a position, and remembers the positions that have none.

    Args:
        source: of the records.
        record_at: position -> record.
    """

    def __init__(self, source: RecordSource, record_at: Callable[[int], int]):
        self._source, self._record_at = source, record_at
        self._bad: set[int] = set()

    def read(self, position: int) -> Slot:
        """The slot of a position: its record, or what the next position shows.

        Raises:
            InputError: see `RecordSource.read`; or there are too many bad records.
        """
        while True:
            if position not in self._bad:
                try:
                    return Slot(position, self._source.read(self._record_at(position)))
                except RecordError as error:
                    self.reject(position, str(error))
            position += 1

    def read_all(self, positions: list[int]) -> list[Slot]:
        """The slots of positions, fetched at once."""
        self._source.announce(self._record_at(position) for position in positions)
        return [self.read(position) for position in positions]

    def reject(self, position: int, reason: str) -> None:
        """Fill this position by the next one from now on, and count its record as bad."""
        self._bad.add(position)
        self._source.reject(self._record_at(position), reason)


def run(slots: Slots, prepare: Prepare, plan: Plan, threads: int) -> Iterator[Part]:
    """Yields the micro-batches of the steps in order.

    An image that does not decode ends the dataset with an error. It is then found and rejected,
    and the dataset begins again with the same micro-batch: this costs a second, but the images
    that decode, nearly all, pay nothing for it.

    Args:
        prepare: makes the images of slots.
        threads: that prepare images.
    """
    step = number = 0
    while plan.steps is None or step < plan.steps:
        reader = _Reader(slots, plan)
        try:
            for images in _dataset(reader, step, prepare, plan, threads).skip(number):
                yield Part(step, number, reader.slots[step], images)
                number += 1
                if number == plan.micro_batches:
                    del reader.slots[step]
                    step, number = step + 1, 0
        except tf.errors.OpError as error:
            if reader.error is not None:
                raise reader.error from None
            if not _reject_undecodable(slots, prepare, plan.positions(step)):
                raise error


def _dataset(
    reader: _Reader,
    first_step: int,
    prepare: Prepare,
    plan: Plan,
    threads: int,
) -> tf.data.Dataset:
    last_step = np.iinfo(np.int64).max if plan.steps is None else plan.steps
    dataset = tf.data.Dataset.range(first_step, last_step)
    # Whole steps of encoded records, then a few images at a time.
    dataset = dataset.map(reader.load, num_parallel_calls=STEPS_READ_AHEAD).unbatch()
    dataset = dataset.map(prepare, num_parallel_calls=threads)
    if reader.together < plan.batch_size:
        dataset = dataset.batch(plan.batch_size // reader.together).map(_joined)
    dataset = dataset.prefetch(BATCHES_AHEAD)
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = threads + STEPS_READ_AHEAD
    # One thread an image: more would only wait for each other.
    options.threading.max_intra_op_parallelism = 1
    return dataset.with_options(options)


def _joined(images: tf.Tensor) -> tf.Tensor:
    return tf.reshape(images, [-1, *images.shape[2:]])


def _reject_undecodable(slots: Slots, prepare: Prepare, positions: np.ndarray) -> bool:
    found = False
    for position in positions.tolist():
        slot = slots.read(position)
        try:
            prepare(tf.constant([slot.sample.image]), tf.constant([slot.position], tf.int64))
        except tf.errors.OpError as error:
            slots.reject(slot.position, f"the image does not decode: {_reason(error)}")
            found = True
    return found


def _reason(error: tf.errors.OpError) -> str:
    """The operation's own words, without the names of graph nodes around them."""
    return error.message.split("\n\t [[")[0].splitlines()[-1].split("}} ")[-1].split(" [Op:")[0]


class _Reader:
    """Reads the slots of one dataset's steps, and keeps them until their images are ready."""

    def __init__(self, slots: Slots, plan: Plan):
        self._slots, self._plan = slots, plan
        most = min(plan.batch_size, MOST_TOGETHER)
        self.together = next(n for n in range(most, 0, -1) if plan.batch_size % n == 0)
        self.slots: dict[int, list[Slot]] = {}
        self.error: Exception | None = None

    def load(self, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The encoded images of a step, string [-1, together], and their positions, int64."""
        contents, positions = tf.numpy_function(self._load, [step], [tf.string, tf.int64])
        shape = [-1, self.together]
        return tf.reshape(contents, shape), tf.reshape(positions, shape)

    def _load(self, step: np.int64) -> tuple[np.ndarray, np.ndarray]:
        try:
            slots = self._slots.read_all(self._plan.positions(int(step)).tolist())
        except Exception as error:
            self.error = error  # tf.data would pass it on as a string with a traceback
            raise
        self.slots[int(step)] = slots
        contents = np.array([slot.sample.image for slot in slots], object)
        return contents, np.array([slot.position for slot in slots], np.int64)
