"""Training logs: console, TensorBoard, JSONL, a tracker."""

import contextlib
import io
import itertools
import json
import math
import os
import resource
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from absl import logging

from data.common import mirror
from data.common.files import atomic_write
from data.common.progress import Progress
from models.metrics import definitions
from models.training.tracker import Tracker

PUSH_FRACTION = 0.01
SMOOTHING = 0.98
"""Weight of the past in the loss that the progress bar shows."""


def peak_memory_bytes() -> int:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, second = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"


@contextlib.contextmanager
def reported(what: str, seconds: float) -> Iterator[None]:
    """Warns with `what` if the block takes longer than `seconds`; 0: never."""
    timer = threading.Timer(seconds, logging.warning, [f"{what} for {seconds:g} s"])
    if seconds:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Meter:
    """Speed over the last `window` steps: images/s and the fraction of time spent on input.

    Args:
      window: number of steps.
      progress: bar that shows the steps, the smoothed loss and the speed; None: no bar.

    Attributes:
      steps: steps done since the start.
      last_seconds: duration of the last step.
    """

    def __init__(self, window: int, progress: Progress | None = None) -> None:
        self._progress, self._losses = progress, 0.0
        self._steps: deque[tuple[int, float, float]] = deque(maxlen=window)
        self._waited = self.last_seconds = 0.0
        self.steps = 0
        self._start = time.perf_counter()

    def waited(self, seconds: float) -> None:
        """Adds time that the current step spent waiting for its input."""
        self._waited += seconds

    def step_done(self, images: int, loss: float = 0.0) -> None:
        """Ends a step; `images` is the number of images over all workers."""
        self.last_seconds = time.perf_counter() - self._start
        self._steps.append((images, self.last_seconds, self._waited))
        self.steps += 1
        self._losses = SMOOTHING * self._losses + (1 - SMOOTHING) * loss
        if self._progress:
            smoothed = self._losses / (1 - SMOOTHING**self.steps)
            speed = self.speed()["images_per_second"]
            self._progress.update(1, f"loss {smoothed:.4g}, {speed:.3g} images/s")

    def close(self) -> None:
        """Ends the progress bar."""
        if self._progress:
            self._progress.close()

    def restart(self) -> None:
        """Starts the clock of the next step, after an evaluation or a checkpoint."""
        self._waited, self._start = 0.0, time.perf_counter()

    def speed(self) -> dict[str, float]:
        """`images_per_second` (all workers), `step_seconds`, and the fraction `waiting`."""
        images, seconds, waited = (sum(column) for column in zip(*self._steps, strict=True))
        return {
            "images_per_second": images / seconds,
            "step_seconds": seconds / len(self._steps),
            "waiting": waited / seconds,
        }


class MetricWriter:
    """Writes the logs of rank 0; other ranks make one with `log_dir=None`, which is silent.

    A log that cannot be written, as on a full disk, does not end training: the writer warns once,
    and writes the pending lines when there is space again.

    Args:
      log_dir: folder of training.jsonl and of TensorBoard's file.
      start_step: step from which the run continues; lines of later steps are deleted.
      evaluated: whether that step has been evaluated.
      flags: of the run; TensorBoard and the tracker show them.
      tracker: experiment tracker that also gets the numbers (see `tracker.Tracker`); None: none.
    """

    def __init__(
        self,
        log_dir: str | None,
        start_step: int,
        evaluated: bool = True,
        flags: Mapping[str, Any] | None = None,
        tracker: str | None = None,
    ) -> None:
        self.start_step = start_step
        self._lines = self._summaries = self._tracker = None
        self._unwritten, self._warned = b"", False
        if log_dir is None:
            return
        folder = Path(log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        for kept in ("training.jsonl", "mlflow.db"):
            mirror.fetch(folder / kept)
        self._folder, self._pushed, self._push_seconds = folder, time.monotonic(), 0.0
        self._lines = _open_at(folder / "training.jsonl", start_step, evaluated)
        self._summaries = tf.summary.create_file_writer(str(folder))
        if flags:
            with self._summarizing(start_step):
                tf.summary.text("flags", _flag_table(flags))
        if tracker:
            self._tracker = Tracker(tracker, folder, start_step, flags or {})

    def scalars(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Logs values of `step` under `kind`, "train" or "val"; NaN is null in training.jsonl."""
        if self._lines is None:
            return
        with self._summarizing(step):
            for name, value in values.items():
                known = definitions.find(name) if kind == "val" else None
                tf.summary.scalar(f"{kind}/{name}", value, description=known and known.meaning)
        if self._tracker:
            self._tracker.scalars(step, kind, values)
        numbers = {name: None if math.isnan(value) else value for name, value in values.items()}
        self._write(json.dumps({"step": step, "kind": kind, **numbers}) + "\n")

    def images(self, step: int, images: tf.Tensor) -> None:
        """Shows up to four of the images [B, H, W, 3], values in [-1, 1], in TensorBoard."""
        if self._lines is not None:
            with self._summarizing(step):
                tf.summary.image("train/images", (images[:4] + 1.0) / 2.0, max_outputs=4)

    def log(self, message: str, *values: Any) -> None:
        if self._lines is not None:
            logging.info(message, *values)

    def push(self, always: bool = True) -> None:
        """Uploads the log if its folder is at a URL.

        Unless `always`, skips the upload if uploads would take more than PUSH_FRACTION of the time.
        """
        if self._lines is None or not mirror.url_of(self._folder):
            return
        if not always and (time.monotonic() - self._pushed) * PUSH_FRACTION < self._push_seconds:
            return
        with contextlib.suppress(tf.errors.OpError):
            self._summaries.flush()
        start = time.monotonic()
        mirror.push(self._folder)
        self._pushed = time.monotonic()
        self._push_seconds = self._pushed - start

    def close(self) -> None:
        if self._lines is None:
            return
        self._write("")
        if self._unwritten:
            logging.error("%s lacks its last lines", self._lines.name)
        with contextlib.suppress(tf.errors.OpError):
            self._summaries.close()
        self._lines.close()
        if self._tracker:
            self._tracker.close()

    def _write(self, line: str) -> None:
        self._unwritten += line.encode()
        try:
            while self._unwritten:  # a nearly full disk may accept only part of a line
                self._unwritten = self._unwritten[self._lines.write(self._unwritten) :]
        except OSError as error:
            self._warn(f"{self._lines.name}: {error.strerror}")

    @contextlib.contextmanager
    def _summarizing(self, step: int) -> Iterator[None]:
        try:
            with self._summaries.as_default(step=step):
                yield
        except tf.errors.OpError as error:
            reason = error.message.split("; ")[-1].splitlines()[0]
            self._warn(f"TensorBoard's file: {reason}")

    def _warn(self, problem: str) -> None:
        if not self._warned:
            logging.warning("the log cannot be written, training continues: %s", problem)
        self._warned = True


def _flag_table(flags: Mapping[str, Any]) -> str:
    """Markdown, which TensorBoard shows as a table."""
    rows = (f"| {name} | {str(value).replace('|', '&#124;')} |\n" for name, value in flags.items())
    return "| flag | value |\n|---|---|\n" + "".join(rows)


def _open_at(path: Path, start_step: int, evaluated: bool) -> io.FileIO:
    """Opens training.jsonl for appending; drops what a killed run wrote after its checkpoint.

    The file of another run in the same folder is renamed.
    """
    kept = []
    if start_step == 0 and path.exists() and path.stat().st_size:
        others = itertools.count(1)
        os.rename(
            path, next(p for n in others if not (p := path.with_stem(f"training-{n}")).exists())
        )
    elif path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
                # An evaluation that was killed before the checkpoint recorded it is repeated.
                again = row["step"] == start_step and row.get("kind") == "val" and not evaluated
                if row["step"] <= start_step and not again:
                    kept.append(line)
            except (json.JSONDecodeError, KeyError):
                break  # The last line of a killed run may be cut off.
    atomic_write(path, "".join(line + "\n" for line in kept))
    return open(path, "ab", buffering=0)
