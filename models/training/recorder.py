"""What a run tells: log lines, TensorBoard, and `training.jsonl` for plots and scripts."""

import contextlib
import itertools
import json
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


def peak_memory_bytes() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, second = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"


@contextlib.contextmanager
def reported(what: str, seconds: float) -> Iterator[None]:
    """Logs a warning that says `what`, if the block takes over `seconds`; 0: never."""
    timer = threading.Timer(seconds, logging.warning, [f"{what} for {seconds:g} s now"])
    if seconds:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Meter:
    """Speed over the last `window` steps: images/s and the share of time spent on input.

    `steps` were done so far, the last of them in `last_seconds`.
    """

    def __init__(self, window: int) -> None:
        self._steps: deque[tuple[int, float, float]] = deque(maxlen=window)
        self._waited = self.last_seconds = 0.0
        self.steps = 0
        self._start = time.perf_counter()

    def waited(self, seconds: float) -> None:
        """Counts time of the present step that went by without input."""
        self._waited += seconds

    def step_done(self, images: int) -> None:
        """Ends a step of `images`, over all workers."""
        self.last_seconds = time.perf_counter() - self._start
        self._steps.append((images, self.last_seconds, self._waited))
        self.steps += 1

    def restart(self) -> None:
        """Begins the next step, leaving out an evaluation or a checkpoint since the last."""
        self._waited, self._start = 0.0, time.perf_counter()

    def speed(self) -> dict[str, float]:
        """`images_per_second` (all workers), `step_seconds`, and the share `waiting`."""
        images, seconds, waited = (sum(column) for column in zip(*self._steps, strict=True))
        return {
            "images_per_second": images / seconds,
            "step_seconds": seconds / len(self._steps),
            "waiting": waited / seconds,
        }


class Recorder:
    """Writes what rank 0 reports; other ranks make one with `log_dir=None`, which is silent."""

    def __init__(self, log_dir: str | None, start_step: int) -> None:
        self._lines = self._summaries = None
        if log_dir is None:
            return
        folder = Path(log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = _open_at(folder / "training.jsonl", start_step)
        self._summaries = tf.summary.create_file_writer(str(folder))

    def scalars(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Records numbers of `step` under `kind`, which is train or val."""
        if self._summaries is None:
            return
        with self._summaries.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(f"{kind}/{name}", value)
        self._lines.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        self._lines.flush()

    def images(self, step: int, images: tf.Tensor) -> None:
        """Shows up to four of the images [B, H, W, 3], values in [-1, 1], in TensorBoard."""
        if self._summaries is not None:
            with self._summaries.as_default(step=step):
                tf.summary.image("train/images", (images[:4] + 1.0) / 2.0, max_outputs=4)

    def say(self, message: str, *values: Any) -> None:
        if self._summaries is not None:
            logging.info(message, *values)

    def close(self) -> None:
        if self._summaries is not None:
            self._summaries.close()
            self._lines.close()


def _open_at(path: Path, start_step: int) -> Any:
    """Opens the record for appending, without what a killed run wrote after its checkpoint.

    That of another run, in the same folder, is kept under another name.
    """
    kept = []
    if start_step == 0 and path.exists() and path.stat().st_size:
        others = itertools.count(1)
        os.rename(
            path, next(p for n in others if not (p := path.with_stem(f"training-{n}")).exists())
        )
    elif path.exists():
        for line in path.read_text().splitlines():
            try:
                if json.loads(line)["step"] <= start_step:
                    kept.append(line)
            except (json.JSONDecodeError, KeyError):
                break  # The last line of a killed run may be cut.
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(line + "\n" for line in kept))
    os.replace(temporary, path)
    return path.open("a")
