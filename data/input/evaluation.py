"""Evaluation input, for training and evaluate.py: labeled images from record files or lists.

Images are decoded by the same code as in the inference scripts, so that an evaluation measures
what they predict. Both records and image lists can be evaluated on one crop or ten.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data.common.errors import UserError
from data.common.progress import Progress
from data.input.image_batches import ImageBatch, Preparation, batches
from data.input.image_source import Loaded, LoadError, SourceImage, in_list
from data.lists import rows
from data.tfrecords.reading import DEFAULT_READING, ReadOptions
from data.tfrecords.record_source import RecordSource, pad_labels
from data.tfrecords.records import RecordError

_log = logging.getLogger(__name__)


class Labels(NamedTuple):
    """The labels of an image, as `pad_labels` expects them: classes and values [labels]."""

    classes: Sequence[int]
    values: Sequence[float]


class EvaluationBatch(NamedTuple):
    """Readable images [B]: crops float32 [B, crops, S, S, 3] and padded-sparse labels [B, K].

    `sample_index` [B] are their numbers among all images.
    """

    sample_index: np.ndarray
    names: list[str]
    crops: np.ndarray
    label_index: np.ndarray
    label_value: np.ndarray


NO_LABELS = Labels((), ())


@dataclass(frozen=True)
class LabeledImage:
    """An unread image of a list, with `Labels` instead of the text label of a `SourceImage`."""

    name: str
    label: Labels
    file: SourceImage

    def load(self) -> Loaded:
        """See `SourceImage.load`; the labels are those of the list."""
        return Loaded(self.name, self.label, self.file.load().data)


@dataclass(frozen=True)
class RecordImage:
    """An unread record; `load` returns the name and labels stored in it."""

    source: RecordSource
    number: int
    name: str
    label: Labels = NO_LABELS

    def load(self) -> Loaded:
        """See `SourceImage.load`."""
        try:
            sample = self.source.read(self.number)
        except RecordError as error:
            raise LoadError(str(error)) from error
        name = sample.name.decode("utf-8", "replace") or self.name
        return Loaded(name, Labels(sample.classes, sample.values), sample.image)


class EvaluationImages:
    """The images to evaluate on, in a fixed order, numbered from 0.

    Args:
        images: list files (spec section 1); if empty, records are read.
        data_dir: folder, file or glob of the records.
        class_num: number of classes.
        max_bad_records: if more images than this are unreadable, the run ends.
        images_dir: the folder that names in lists are relative to; None: as in
            `image_source.images`.
        reading: how records are read.

    Attributes:
        sources: the list files, or `data_dir`.
        readable: number of images that the last call of `batches` has read so far.
        left_out: (number, name, reason) of the images that it could not read.

    Raises:
        UserError: no records.
        ListError: a row that breaks the format (while iterating).
    """

    def __init__(
        self,
        images: Sequence[str],
        data_dir: str,
        class_num: int,
        max_bad_records: int,
        images_dir: str | None = None,
        reading: ReadOptions = DEFAULT_READING,
    ) -> None:
        self._images_dir, self.readable = images_dir, 0
        self.sources = list(images) or [data_dir]
        self._lists, self._class_num, self._max_bad = list(images), class_num, max_bad_records
        self._records = None
        if not images:
            self._records = RecordSource(
                data_dir, class_num, max_bad_records, "val", reading=reading
            )
        self.left_out: list[tuple[int, str, str]] = []
        self._logged: set[int] = set()

    def __iter__(self) -> Iterator[LabeledImage | RecordImage]:
        if self._records:
            for number in range(self._records.total):
                yield RecordImage(self._records, number, self._records.where(number))
        for path in self._lists:
            for row in rows.read_rows(path, self._class_num):
                file = in_list(path, row.image, self._images_dir)
                yield LabeledImage(row.image, Labels(row.classes, row.confidences), file)

    def batches(
        self, prepare: Preparation, batch_size: int, threads: int, rank: int = 0, size: int = 1
    ) -> Iterator[EvaluationBatch]:
        """Every `size`-th batch from the `rank`-th on: the same batches for any number of workers.

        A batch without a readable image is skipped.

        Args:
            prepare: makes the crops.
            batch_size: images per batch, including unreadable ones.
            threads: number of threads that read and decode.

        Raises:
            UserError: too many images are unreadable, or all are; if `size` is not 1, the caller
                checks the latter with `check_any`.
        """
        self.readable, self.left_out = 0, []
        chunks = _chunks(self, batch_size)
        own = itertools.islice(chunks, rank, None, size)
        starts: list[int] = []

        def images() -> Iterator[LabeledImage | RecordImage]:
            for start, chunk in own:
                starts.append(start)
                self._read_ahead(start, batch_size, size)
                yield from chunk

        for batch in batches(images(), prepare, batch_size, threads):
            readable = self._readable(starts.pop(0), batch)
            if readable.names:
                yield readable
        if size == 1:
            self.check_any(self.readable)

    def check_any(self, readable: int) -> None:
        """Raises UserError if no image was readable; `left_out` must cover all workers."""
        if not readable and self.left_out:
            _, name, reason = self.left_out[-1]
            raise UserError(
                f"none of the {len(self.left_out)} images could be read, the last {name}: "
                f"{reason} (names in a list are relative to --images_dir)"
            )

    def crops_of(
        self, numbers: Container[int], prepare: Preparation
    ) -> Iterator[tuple[int, np.ndarray]]:
        """(number, crops float32 [crops, S, S, 3]) of the images with these numbers, in order."""
        for number, image in enumerate(self):
            if number in numbers:
                yield number, prepare(image.load().data)

    def _read_ahead(self, start: int, batch_size: int, size: int) -> None:
        """Prefetches the records of this worker's batches from `start` on, where reads are slow."""
        if self._records and self._records.records_ahead:
            later = math.ceil(self._records.records_ahead / batch_size)
            starts = start + np.arange(1 + later) * batch_size * size
            records = (starts[:, None] + np.arange(batch_size)).ravel()
            self._records.read_ahead(records[records < self._records.total])

    def _readable(self, start: int, batch: ImageBatch) -> EvaluationBatch:
        for number, image in enumerate(batch.images, start):
            if image.problem:
                self._leave_out(number, image.name, image.problem)
        kept = [i for i, image in enumerate(batch.images) if not image.problem]
        images = [batch.images[i] for i in kept]
        self.readable += len(kept)
        labels = pad_labels([image.label for image in images])
        names = [image.name for image in images]
        sample_index = start + np.array(kept, np.int64)
        return EvaluationBatch(sample_index, names, batch.crops[kept], *labels)

    def _leave_out(self, number: int, name: str, reason: str) -> None:
        self.left_out.append((number, name, reason))
        if number not in self._logged:  # training evaluates the same images again and again
            self._logged.add(number)
            _log.warning("left out %d: %s: %s", len(self.left_out), name, reason)
        if len(self.left_out) > self._max_bad:
            raise UserError(
                f"{len(self.left_out)} images cannot be read, the last {name}: {reason};"
                f" raise --max_bad_records={self._max_bad} if that is acceptable"
            )


def with_progress(batches: Iterable[EvaluationBatch]) -> Iterator[EvaluationBatch]:
    """Yields the batches, and shows the progress."""
    with Progress("evaluation", None, "image") as progress:
        for batch in batches:
            yield batch
            progress.update(len(batch.names))


def _chunks(
    images: Iterable[LabeledImage | RecordImage], batch_size: int
) -> Iterator[tuple[int, list[LabeledImage | RecordImage]]]:
    """Yields the number of the first image, and `batch_size` images (fewer at the end)."""
    iterator, start = iter(images), 0
    while chunk := list(itertools.islice(iterator, batch_size)):
        yield start, chunk
        start += len(chunk)
