"""Loads the batches of each step: threads read samples, decode and augment their images.

    sample_index -> record -> encoded image -> image -> batch

Nothing here depends on timing: each image of a batch is a function of its sample index. Only the
encoded records of a few steps and `BATCHES_AHEAD` batches are kept in memory.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from data.common.errors import UserError
from data.common.images import ImageError
from data.common.parallel import map_ahead
from data.tfrecords.record_source import RecordSource
from data.tfrecords.records import RecordError

STEPS_READ_AHEAD = 2
BATCHES_AHEAD = 2
GROUP_SIZE = 32  # maximum images per call; they share the time it holds the GIL
ALIGNMENT = 64  # bytes; TensorFlow adopts arrays with this alignment without a copy


class IndexedSample(NamedTuple):
    """A readable sample, with its index.

    Each place in a batch has its own index; if that record is bad, the place is filled with the
    sample of the next index whose record is good.

    `sample` is what `RecordSource.read` returns, such as a `Sample` or `DenseSample`.
    """

    sample_index: int
    sample: Any


MakeImages = Callable[[Sequence[IndexedSample], np.ndarray], None]
"""Makes the images of n samples, and writes them to an array whose first axis is n.

Raises tf.errors.OpError, ImageError or RecordError if one of them is damaged.
"""


class StepPlan(NamedTuple):
    """A worker's part of every step.

    Attributes:
        sample_indices: step -> the indices of its samples, micro_batches * batch_size numbers in
            order.
        batch_size: images per micro-batch.
        micro_batches: micro-batches per step.
        new_images: makes an array for the images of a micro-batch: `aligned((batch_size, S, S,
            3))`, or an array of objects if images differ in size.
        group_size: maximum images per call of `MakeImages`.
    """

    sample_indices: Callable[[int], range]
    batch_size: int
    micro_batches: int
    new_images: Callable[[], np.ndarray]
    group_size: int = GROUP_SIZE


class MicroBatch(NamedTuple):
    """Micro-batch `number` of a step: its images in an array of `StepPlan.new_images`.

    `samples` are the samples of the whole step.
    """

    number: int
    samples: list[IndexedSample]
    images: np.ndarray


class SampleReader:
    """Reads the sample of an index, and remembers the indices of bad records.

    Args:
        source: of the records.
        records: first sample index, count -> the record ids of these samples; see sampler.py.
    """

    def __init__(self, source: RecordSource, records: Callable[[int, int], np.ndarray]):
        self._source, self._records = source, records
        self._bad: set[int] = set()
        self._lock = threading.Lock()
        self._failure: UserError | None = None

    def read(self, sample_index: int) -> IndexedSample:
        """The sample of an index, or of the next index whose record can be read.

        Raises:
            UserError: see `RecordSource.read`; or there are too many bad records.
        """
        return self._read(sample_index, self._record(sample_index))

    def read_all(self, sample_indices: range) -> list[IndexedSample]:
        """The samples of consecutive indices, prefetched together."""
        records = self._records(sample_indices.start, len(sample_indices)).tolist()
        self._source.prefetch(records)
        return list(map(self._read, sample_indices, records))

    def read_ahead(self, sample_indices: range) -> None:
        """Prefetches samples of later steps; for use as far ahead as `steps_ahead` says."""
        self._source.read_ahead(self._records(sample_indices.start, len(sample_indices)))

    def steps_ahead(self, samples: int) -> int:
        """How many steps, of `samples` samples each, `read_ahead` should be ahead; 0: none."""
        return math.ceil(self._source.records_ahead / samples)

    def _record(self, sample_index: int) -> int:
        return int(self._records(sample_index, 1)[0])

    def _read(self, sample_index: int, record: int) -> IndexedSample:
        while True:
            if sample_index not in self._bad:
                try:
                    return IndexedSample(sample_index, self._source.read(record))
                except RecordError as error:
                    self.reject(sample_index, str(error))
            sample_index += 1
            record = self._record(sample_index)

    def reject(self, sample_index: int, reason: str) -> None:
        """Makes `read` skip an index from now on, and counts its record as bad.

        Raises:
            UserError: there are too many bad records; every thread gets the same error.
        """
        with self._lock:
            if self._failure:
                raise self._failure
            self._bad.add(sample_index)
            try:
                self._source.reject(self._record(sample_index), reason)
            except UserError as error:
                self._failure = error
                raise


class _Group(NamedTuple):
    """Some samples of a step whose images are made by one call.

    `number` is that of the group's micro-batch, whose images are `batch_images`; `images` is the
    slice that the group fills.
    """

    step: list[IndexedSample]
    number: int
    samples: list[IndexedSample]
    batch_images: np.ndarray
    images: np.ndarray


def load(
    reader: SampleReader, make_images: MakeImages, plan: StepPlan, threads: int
) -> Iterator[MicroBatch]:
    """Yields the micro-batches of the steps in order, endlessly.

    Args:
        reader: reads the samples.
        make_images: decodes and augments; runs in `threads` threads.
        plan: what to load in every step.

    Raises:
        UserError: see `SampleReader.read`.
    """
    most = min(plan.group_size, math.ceil(plan.batch_size / threads))  # work for every thread
    size = next(n for n in range(most, 0, -1) if plan.batch_size % n == 0)
    groups_per_batch = plan.batch_size // size

    ahead = reader.steps_ahead(plan.batch_size * plan.micro_batches)

    def read(step: int) -> list[IndexedSample]:
        if ahead:
            for later in range(step + ahead if step else 0, step + ahead + 1):
                reader.read_ahead(plan.sample_indices(later))
        return reader.read_all(plan.sample_indices(step))

    def make(group: _Group) -> _Group:
        samples = _make_or_replace(reader, make_images, group.samples, group.images)
        return group._replace(samples=samples)

    steps = map_ahead(read, itertools.count(), STEPS_READ_AHEAD, STEPS_READ_AHEAD)
    groups = map_ahead(make, _groups(steps, plan, size), threads, BATCHES_AHEAD * groups_per_batch)
    step: list[IndexedSample] = []
    with contextlib.closing(steps), contextlib.closing(groups):
        while made := list(itertools.islice(groups, groups_per_batch)):
            number, images = made[0].number, made[0].batch_images
            step = made[0].step if number == 0 else step
            begin, end = number * plan.batch_size, (number + 1) * plan.batch_size
            samples = [sample for group in made for sample in group.samples]
            if any(new is not old for new, old in zip(samples, step[begin:end], strict=True)):
                step = [*step[:begin], *samples, *step[end:]]
            yield MicroBatch(number, step, images)


def _groups(steps: Iterable[list[IndexedSample]], plan: StepPlan, size: int) -> Iterator[_Group]:
    for step in steps:
        for number in range(plan.micro_batches):
            images = plan.new_images()
            for row in range(0, plan.batch_size, size):
                first = number * plan.batch_size + row
                samples = step[first : first + size]
                yield _Group(step, number, samples, images, images[row : row + size])


def _make_or_replace(
    reader: SampleReader,
    make_images: MakeImages,
    samples: list[IndexedSample],
    images: np.ndarray,
) -> list[IndexedSample]:
    """Makes images; returns their samples, with undecodable ones replaced."""
    try:
        make_images(samples, images)
        return samples
    except (tf.errors.OpError, ImageError, RecordError) as error:
        if len(samples) > 1:  # one by one, to find the bad one
            rows = range(len(samples))
            parts = ((samples[row : row + 1], images[row : row + 1]) for row in rows)
            return [_make_or_replace(reader, make_images, *part)[0] for part in parts]
        index = samples[0].sample_index
        reader.reject(index, _reason(error))
        return _make_or_replace(reader, make_images, [reader.read(index)], images)


def _reason(error: tf.errors.OpError | ImageError | RecordError) -> str:
    """What is wrong; of an operation, its message without the names of graph nodes."""
    if isinstance(error, RecordError):
        return str(error)
    message = str(error)
    if isinstance(error, tf.errors.OpError):
        message = error.message.split("\n\t [[")[0].splitlines()[-1].split("}} ")[-1]
        message = message.split(" [Op:")[0]
    return f"the image cannot be decoded: {message}"


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """An uninitialized float32 array that TensorFlow can adopt without a copy."""
    count, step = math.prod(shape), ALIGNMENT // 4
    memory = np.empty(count + step, np.float32)
    start = -(memory.ctypes.data // 4) % step
    return memory[start : start + count].reshape(shape)


def to_tensor(images: np.ndarray) -> tf.Tensor:
    """An array from `aligned` as a tensor, without the copy that tf.constant would make."""
    return tf.experimental.dlpack.from_dlpack(images.__dlpack__())
