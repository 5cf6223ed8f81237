"""The training input pipeline, from record files to batches; for evaluation, see evaluation.py.

    sample index -> record (sampler.py) -> bytes (data/tfrecords/record_source.py)
             -> image (augment.py) -> batch (loader.py)

A batch is a pure function of the options and its sample indices: threads, restarts and the number
of workers do not change it. Record ids are shuffled, not a buffer of data.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data.common.sharding import StepShard
from data.input import augment, preprocess
from data.input.augment import Augmentation
from data.input.loader import (
    IndexedSample,
    MicroBatch,
    SampleReader,
    StepPlan,
    aligned,
    load,
    to_tensor,
)
from data.input.sampler import (
    BlockSampler,
    RandomSampler,
    WeightedSampler,
    describe_counts,
    record_weights,
    shuffled,
)
from data.tfrecords.reading import DEFAULT_READING, ReadOptions
from data.tfrecords.record_source import RecordSource, count_classes, pad_labels

__all__ = [
    "Augmentation",
    "Batch",
    "InputOptions",
    "TrainingInput",
]

LOGGER = logging.getLogger(__name__)
SYNTHETIC_LABELS = 9  # per image, as in ML-Images (spec section 1: 8.72)


@dataclasses.dataclass(frozen=True)
class InputOptions:
    """What to read and how; plain fields are the flags of the same name (units there)."""

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
    class_balance: float = 0.0
    count_classes: bool = False
    reading: ReadOptions = DEFAULT_READING


class Batch(NamedTuple):
    """One micro-batch of B images; A of them make a step of this worker.

    Labels are padded-sparse: class indices padded with -1, and their values (0 in the padding, -1
    where the label is unknown).
    """

    images: tf.Tensor  # float32 [B, image_size, image_size, 3] in [-1, 1]
    label_index: tf.Tensor  # int32 [B, K]
    label_value: tf.Tensor  # float32 [B, K]
    global_label_index: tf.Tensor  # int32 [A * B, K], of this worker's whole step
    global_label_value: tf.Tensor  # float32 [A * B, K]


class TrainingInput:
    """An endless stream of augmented batches from this worker's part of the records.

    Args:
        options: what to read.
        augmentation: the random changes.
        step_shard: this worker's part of every step; None: all of it, in one micro-batch.

    Attributes:
        records: number of records, over all workers; for synthetic data, the images per step.

    Raises:
        UserError: see `RecordSource`.
    """

    def __init__(
        self, options: InputOptions, augmentation: Augmentation, step_shard: StepShard | None = None
    ):
        self._options, self._augmentation = options, augmentation
        self._step_shard = step_shard or StepShard(options.batch_size, first=0, count=1, total=1)
        if options.synthetic:
            self.records = self._step_shard.global_batch
            return
        source = RecordSource(
            options.data_dir, options.class_num, options.max_bad_records, reading=options.reading
        )
        self.records = source.total
        sampler = _make_sampler(source, options, self._step_shard)
        self._reader = SampleReader(source, sampler.records)

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """Micro-batches from sample index `start`, the number of samples all workers have used."""
        if self._options.synthetic:
            return _synthetic(self._options, self._step_shard)
        return self._batches(start)

    def _batches(self, start: int) -> Iterator[Batch]:
        micro_batch, size = self._step_shard.micro_batch, self._options.image_size
        plan = StepPlan(
            functools.partial(self._step_shard.sample_indices, start),
            micro_batch,
            self._step_shard.count,
            functools.partial(aligned, (micro_batch, size, size, preprocess.CHANNELS)),
        )
        threads = self._options.num_preprocess_threads
        yield from _labeled(load(self._reader, self._make_images, plan, threads))

    def _make_images(self, samples: Sequence[IndexedSample], images: np.ndarray) -> None:
        seed = self._options.random_seed
        seeds = np.array([(seed, indexed.sample_index) for indexed in samples], np.int64)
        contents = [indexed.sample.image for indexed in samples]
        augment.make_images(contents, seeds, self._augmentation, images)


def _make_sampler(
    source: RecordSource, options: InputOptions, step_shard: StepShard
) -> RandomSampler | BlockSampler | WeightedSampler:
    """The sampler for the options; the first worker logs the class counts, if requested."""
    positives = source.positives() if options.class_balance else []
    if options.count_classes and step_shard.first == 0:
        counts = count_classes(positives, options.class_num) if positives else source.class_counts()
        LOGGER.info("%s", describe_counts(counts))
    if options.class_balance:
        source.read_singly()  # because they are drawn one by one
        weights = record_weights(positives, options.class_num, options.class_balance)
        return WeightedSampler(weights, options.random_seed)
    windows = options.file_shuffle_buffer, options.shuffle_buffer
    return shuffled(source, options.random_seed, windows, step_shard)


def _labeled(parts: Iterator[MicroBatch]) -> Iterator[Batch]:
    """Adds the labels, which are padded and copied once per step, to the micro-batches."""
    known: list[IndexedSample] | None = None
    for part in parts:
        if part.samples is not known:
            known = part.samples
            index, value = pad_labels([indexed.sample for indexed in part.samples])
            step_labels = tf.constant(index), tf.constant(value)
        size = part.images.shape[0]
        rows = slice(part.number * size, (part.number + 1) * size)
        whole = size == len(known)
        labels = step_labels if whole else (tf.constant(index[rows]), tf.constant(value[rows]))
        yield Batch(to_tensor(part.images), *labels, *step_labels)


def _synthetic(options: InputOptions, step_shard: StepShard) -> Iterator[Batch]:
    """Repeats one micro-batch of random pixels endlessly, to measure compute alone."""
    rng = np.random.default_rng((options.random_seed & 0xFFFFFFFF, step_shard.first))
    size, count = step_shard.micro_batch, step_shard.micro_batch * step_shard.count
    shape = size, options.image_size, options.image_size, preprocess.CHANNELS
    labels = min(SYNTHETIC_LABELS, options.class_num)
    first = rng.integers(options.class_num, size=(count, 1), dtype=np.int32)
    index = (first + np.arange(labels, dtype=np.int32)) % options.class_num
    # One positive label per image, which every loss accepts; the value of the others is 0.
    index, value = tf.constant(index), tf.one_hot(tf.zeros(count, tf.int32), labels)
    batch = Batch(
        tf.constant(rng.uniform(-1, 1, shape).astype(np.float32)),
        index[:size],
        value[:size],
        index,
        value,
    )
    while True:
        yield batch
