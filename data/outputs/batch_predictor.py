"""Runs a network over many images and writes the result; resumable.

Both inference scripts are this job; they differ in what they make of a batch.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

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
    """Images in the result and how many of them are unreadable; the speed of this process."""

    images: int
    unreadable: int
    images_per_second: float


@dataclass(frozen=True, eq=False)
class BatchPredictor(Generic[Row]):
    """What is run over which images, and where the rows go.

    Attributes:
      sources, images_dir: see `image_source.images`.
      result: the file to make.
      format: of the result.
      prepare: makes crops of images.
      predict: the network: crops float32 [B, K, S, S, 3] -> numbers [B, ...].
      describe: makes the rows of a batch, in order, of it and of what `predict` gave.
      settings: whatever else decides on the rows; a resumed run must have the same.
      batch_size: in images.
      threads: that read and decode.
      group: the processes that share the images; each takes a run of whole batches.
      shown: how many of the first images `describe` has to see, even where an interrupted run
        has done them.
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
        """Batches of the images from the `start`-th up to before the `stop`-th."""
        found = image_source.images(self.sources, start, stop, None, self.images_dir)
        return batches(found, self.prepare, self.batch_size, self.threads)

    def run(self) -> Totals:
        """Makes the result; all processes wait for each other, one of them completes it.

        Raises:
          UserError: no images, a source that cannot be opened, or an unfinished result with other
            settings is in the way.
        """
        total = self._count()
        shards = ResultShards(self.result, self._settings())
        speed = self._fill(shards, total)
        self.group.wait()
        images, unreadable = shards.totals(total)
        self.group.wait()  # all have read the totals before one cleans up
        if self.group.collects:
            if images < (total or 0):
                raise UserError(f"{self.result}: {total - images} images are missing; run again")
            self.format.finish(shards.join(total, self.format.header), self.result)
            shards.clean()
        if images and unreadable == images:
            raise UserError(
                f"none of the {images} images could be read; {self.result} has the reason of"
                " each (names in a list are relative to --images_dir)"
            )
        return Totals(images, unreadable, speed)

    def _settings(self) -> dict[str, Any]:
        """Whatever decides on the rows."""
        settings = {**self.settings, "sources": self.sources, "batch_size": self.batch_size}
        return settings | ({"images_dir": self.images_dir} if self.images_dir else {})

    def _fill(self, shards: ResultShards, total: int | None) -> float:
        """Does what is left of this process's shard; its images per second."""
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
                # Rows are made and written while the network is at the next batch.
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
        """Gives `describe` those of our images to be shown that an interrupted run has done."""
        stop = min(stop, start + -(-self.shown // self.batch_size) * self.batch_size)
        if first >= stop:
            return
        if image_source.STDIN in self.sources:
            raise UserError(
                "the page needs the images of the interrupted run, which standard input has only"
                f" once: continue without --page, or start over: delete {self.result}.partial"
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
        """Images in all; None where only reading them would show it."""
        if self.group.shard.count == 1 and image_source.STDIN in self.sources:
            return None
        passed_over: Counter[str] = Counter()
        total = image_source.count(self.sources, passed_over)
        if passed_over and self.group.collects:
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in passed_over.most_common(5))
            _log.warning("passed over as no images: %d files (%s)", passed_over.total(), kinds)
        return total


def _span(total: int | None, batch_size: int, shard: Shard) -> tuple[int, int | None]:
    """First image of a process's shard, and the one after its last (None: to the end).

    Shards begin at whole batches, so any number of processes makes the same batches. The first
    shard is never empty: it has the images of the page.
    """
    if total is None:
        return 0, None
    ours = shard.span(-(-total // batch_size))
    return min(ours.start * batch_size, total), min(ours.stop * batch_size, total)


class _Problems:
    """Logs the first images that are unreadable."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, problems: list[tuple[str, str]]) -> None:
        for name, problem in problems[: max(0, LOGGED_PROBLEMS - self._count)]:
            _log.warning("unreadable: %s: %s", name, problem)
        self._count += len(problems)

    def close(self) -> None:
        if self._count > LOGGED_PROBLEMS:
            more = self._count - LOGGED_PROBLEMS
            _log.warning("%d more were unreadable; the result names each in its place", more)
