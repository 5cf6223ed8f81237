"""Runs a network over many images and writes one row per image to a file; resumable.

Used by image_classification.py and extract_feature.py, which write different rows.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from data.common import mirror
from data.common.errors import UserError
from data.common.processes import ProcessGroup
from data.common.progress import Progress
from data.common.sharding import Shard
from data.input import image_source
from data.input.image_batches import ImageBatch, Preparation, batches
from data.outputs.result_files import ResultFormat, ResultShards, ShardWriter

Row = TypeVar("Row")

LOGGED_PROBLEMS = 20

_log = logging.getLogger(__name__)


class Totals(NamedTuple):
    """Number of images and of unreadable images in the result, and the speed of this process."""

    images: int
    unreadable: int
    images_per_second: float


@dataclass(frozen=True, eq=False)
class BatchPredictor(Generic[Row]):
    """A network, the images it is run on, and the file its results are written to.

    Attributes:
      sources, images_dir: see `image_source.images`.
      result: the file to write.
      format: the format of that file.
      prepare: makes crops of images.
      predict: the network: float32 [B, K, S, S, 3], K crops of each of B images -> [B, ...].
      describe: makes the rows of a batch, in order, from the batch and the output of `predict`.
      settings: everything else that determines the rows; must be the same when a run is resumed.
      batch_size: images per batch.
      threads: number of threads that read and decode images.
      group: the processes that share the images; each handles consecutive, complete batches.
      shown: `describe` is called for this many images at the start in every run, even if an
        interrupted run has already processed them.
    """

    sources: Sequence[str]
    result: Path
    format: ResultFormat[Row]
    prepare: Preparation
    predict: Callable[[np.ndarray], np.ndarray]
    describe: Callable[[ImageBatch, np.ndarray], list[Row]]
    settings: dict[str, Any]
    batch_size: int
    threads: int
    group: ProcessGroup
    shown: int = 0
    images_dir: str | None = None

    def batches(self, start: int, stop: int | None) -> Iterator[ImageBatch]:
        """Batches of the images `start` to `stop - 1` (`stop` None: to the end)."""
        found = image_source.images(self.sources, start, stop, None, self.images_dir)
        return batches(found, self.prepare, self.batch_size, self.threads)

    def run(self) -> Totals:
        """Writes the result. All processes wait for each other; one of them completes the file.

        Raises:
          UserError: there are no images, none can be read, a source cannot be opened, or an
            unfinished result has different settings.
        """
        total = self._count()
        shards = ResultShards(self.result, self._settings())
        speed = self._fill(shards, total)
        self.group.wait()
        images, unreadable = shards.totals(total)
        self.group.wait()  # all must read the totals before one process removes the shards
        if self.group.collects:
            if images < (total or 0):
                raise UserError(f"{self.result}: {total - images} images are missing; run again")
            self.format.finish(shards.join(total, self.format.header), self.result)
            mirror.push(self.result)
            shards.clean()
        if images and unreadable == images:
            raise UserError(
                f"none of the {images} images could be read; {self.result} gives the reason for"
                " each (names in a list are relative to --images_dir)"
            )
        return Totals(images, unreadable, speed)

    def _settings(self) -> dict[str, Any]:
        """Everything that determines the rows."""
        settings = {**self.settings, "sources": self.sources, "batch_size": self.batch_size}
        return settings | ({"images_dir": self.images_dir} if self.images_dir else {})

    def _fill(self, shards: ResultShards, total: int | None) -> float:
        """Processes the rest of this process's shard; returns its images per second."""
        start, stop = _span(total, self.batch_size, self.group.shard)
        gaps = shards.gaps(start, stop, total, self.batch_size)
        images = None if stop is None else stop - start
        done = gaps[0][0] - start if stop is None else images - sum(b - a for a, b in gaps)
        if done:
            _log.info("continuing after the %d images of an interrupted run", done)
        problems, at = _Problems(), start
        with Progress("prediction", images, "image", done) as progress:
            for first, end in gaps:
                self._show_again(at, first, start)
                at = end
                # A thread makes and writes the rows while the network runs on the next batch.
                with (
                    ShardWriter(shards, first) as output,
                    ThreadPoolExecutor(1, thread_name_prefix="write") as writer,
                ):
                    written: Future[None] | None = None
                    for batch in self.batches(first, end):
                        values = self.predict(batch.crops)
                        if written:
                            written.result()
                        written = writer.submit(self._write, batch, values, output, problems)
                        progress.update(len(batch.images))
                    if written:
                        written.result()
        if at is not None:
            self._show_again(at, stop, start)
        problems.close()
        return progress.per_second()

    def _show_again(self, first: int, stop: int, start: int) -> None:
        """Calls `describe` again for the first images that an interrupted run has already done.

        Args:
          first, stop: range of the images already done.
          start: the first image of this process.
        """
        stop = min(stop, start + -(-self.shown // self.batch_size) * self.batch_size)
        if first >= stop:
            return
        if image_source.STDIN in self.sources:
            raise UserError(
                "--page needs the images of the interrupted run again, but standard input can be"
                f" read only once: omit --page, or delete {self.result}.partial to start over"
            )
        for batch in self.batches(first, stop):
            self.describe(batch, self.predict(batch.crops))

    def _write(
        self, batch: ImageBatch, values: np.ndarray, output: ShardWriter, problems: "_Problems"
    ) -> None:
        rows = b"".join(map(self.format.encode, self.describe(batch, values)))
        unreadable = [(p.name, p.problem) for p in batch.images if p.problem]
        output.append(rows, len(batch.images), len(unreadable))
        problems.add(unreadable)

    def _count(self) -> int | None:
        """Number of images; None for a list on standard input, whose length is unknown."""
        if self.group.shard.count == 1 and image_source.STDIN in self.sources:
            return None
        skipped: Counter[str] = Counter()
        total = image_source.count(self.sources, skipped)
        if skipped and self.group.collects:
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in skipped.most_common(5))
            _log.warning("skipped %d files that are not images (%s)", skipped.total(), kinds)
        return total


def _span(total: int | None, batch_size: int, shard: Shard) -> tuple[int, int | None]:
    """Range (start, stop) of the images of a process; stop None: to the end.

    Shards start at batch boundaries, so the batches are the same for any number of processes. The
    first shard is never empty; it has the first images, which the page shows.
    """
    if total is None:
        return 0, None
    ours = shard.span(-(-total // batch_size))
    return min(ours.start * batch_size, total), min(ours.stop * batch_size, total)


class _Problems:
    """Logs the first LOGGED_PROBLEMS unreadable images, and how many more there are."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, problems: list[tuple[str, str]]) -> None:
        for name, problem in problems[: max(0, LOGGED_PROBLEMS - self._count)]:
            _log.warning("unreadable: %s: %s", name, problem)
        self._count += len(problems)

    def close(self) -> None:
        if self._count > LOGGED_PROBLEMS:
            more = self._count - LOGGED_PROBLEMS
            _log.warning("%d more are unreadable; the result gives the reason for each", more)
