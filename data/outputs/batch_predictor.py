"""Runs a network over many images and writes the result; resumable.

Both inference scripts are this job; they differ in what they make of a batch.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from data.common.errors import UserError
from data.common.processes import ProcessGroup
from data.common.sharding import Shard
from data.input import image_source
from data.input.image_batches import ImageBatch, Preparation, batches
from data.outputs import resumable
from data.outputs.result_format import ResultFormat

Row = TypeVar("Row")

LOG_SECONDS = 30.0
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
        speed = self._fill()
        self.group.wait()
        count = self.group.shard.count
        images, unreadable = resumable.totals(self.result, count)
        self.group.wait()  # all have read the totals before one cleans up
        if self.group.collects:
            self.format.finish(resumable.join(self.result, count), self.result)
            resumable.clean(self.result, count)
        if images and unreadable == images:
            raise UserError(
                f"none of the {images} images could be read; {self.result} has the reason of"
                " each (names in a list are relative to --images_dir)"
            )
        return Totals(images, unreadable, speed)

    def _fill(self) -> float:
        """Brings this process's share up to its last image; its images per second."""
        total = self._count()
        shard = self.group.shard
        start, stop = _span(total, self.batch_size, shard)
        settings = {**self.settings, "sources": self.sources, "batch_size": self.batch_size}
        settings |= {"images_dir": self.images_dir} if self.images_dir else {}
        settings["first_image"] = start  # it moves when a source grows, but for the first share
        with resumable.Part(self.result, settings, *shard, self.format.header) as output:
            if output.items:
                _log.info("continuing after the %d images of an interrupted run", output.items)
                self._show_again(start, output.items)
            images = None if stop is None else stop - start
            progress = _Progress(images, output.items)
            # Rows are made and written while the network is at the next batch.
            with ThreadPoolExecutor(1, thread_name_prefix="write") as writer:
                written: Future[None] | None = None
                for batch in self.batches(start + output.items, stop):
                    values = self.predict(batch.crops)
                    if written:
                        written.result()
                    written = writer.submit(self._write, batch, values, output, progress)
            if written:
                written.result()
        return progress.close()

    def _show_again(self, start: int, done: int) -> None:
        """Gives `describe` the images to be shown that an interrupted run has done."""
        whole_batches = -(-self.shown // self.batch_size) * self.batch_size
        if not whole_batches:
            return
        if image_source.STDIN in self.sources:
            raise UserError(
                "the page needs the images of the interrupted run, which standard input has only"
                f" once: continue without --page, or start over: delete {self.result}.partial.json"
            )
        for batch in self.batches(start, start + min(whole_batches, done)):
            self.describe(batch, self.predict(batch.crops))

    def _write(
        self, batch: ImageBatch, values: np.ndarray, output: resumable.Part, progress: "_Progress"
    ) -> None:
        rows = b"".join(map(self.format.encode, self.describe(batch, values)))
        problems = [(p.name, p.problem) for p in batch.images if p.problem]
        output.append(rows, len(batch.images), len(problems))
        progress.show(len(batch.images), problems)

    def _count(self) -> int | None:
        """Images in all; None where only reading them would tell."""
        if self.group.shard.count == 1 and image_source.STDIN in self.sources:
            return None
        passed_over: Counter[str] = Counter()
        total = image_source.count(self.sources, passed_over)
        if passed_over and self.group.collects:
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in passed_over.most_common(5))
            _log.warning("passed over as no images: %d files (%s)", passed_over.total(), kinds)
        return total


def _span(total: int | None, batch_size: int, shard: Shard) -> tuple[int, int | None]:
    """First image of a process's share, and the one after its last (None: to the end).

    Shares begin at whole batches, so any number of processes makes the same batches. The first
    share is never empty: it holds the header and the images of the page.
    """
    if total is None:
        return 0, None
    ours = shard.span(-(-total // batch_size))
    return min(ours.start * batch_size, total), min(ours.stop * batch_size, total)


class _Progress:
    """A bar on a terminal, a log line now and then elsewhere; the first problems are logged."""

    def __init__(self, total: int | None, done: int) -> None:
        self._bar = tqdm(total=total, initial=done, unit=" images", disable=None)
        self._total, self._done, self._new, self._problems = total, done, 0, 0
        self._started = self._logged = time.monotonic()

    def show(self, images: int, problems: list[tuple[str, str]]) -> None:
        self._bar.update(images)
        self._done += images
        self._new += images
        for name, problem in problems[: max(0, LOGGED_PROBLEMS - self._problems)]:
            _log.warning("unreadable: %s: %s", name, problem)
        self._problems += len(problems)
        if self._bar.disable and time.monotonic() - self._logged > LOG_SECONDS:
            self._logged = time.monotonic()
            whole = f" of {self._total}" if self._total is not None else ""
            _log.info("%d%s images, %.1f a second", self._done, whole, self._speed())

    def close(self) -> float:
        self._bar.close()
        if self._problems > LOGGED_PROBLEMS:
            more = self._problems - LOGGED_PROBLEMS
            _log.warning("%d more were unreadable; the result names each in its place", more)
        return self._speed()

    def _speed(self) -> float:
        return self._new / max(time.monotonic() - self._started, 1e-9)
