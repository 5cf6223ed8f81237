"""Progress of long jobs: a bar on a terminal, otherwise a log line every 30 seconds."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

LOG_SECONDS = 30.0
_LINE = (
    "{{desc}}: {{n_fmt}} of {{total_fmt}} {units},"
    " {{elapsed}} gone, {{remaining}} left, {{rate_fmt}}"
)


class Progress:
    """Shows how far work is, on the standard error stream.

    Args:
        what: is being worked on.
        total: units of work.
        unit: what they are.
        done: units done by earlier runs.
    """

    def __init__(self, what: str, total: int, unit: str, done: int = 0) -> None:
        self._options = {"unit": unit, "unit_scale": unit == "B", "initial": done}
        self._line = _LINE.format(units=unit if unit == "B" else f"{unit}s")
        self._bar = tqdm(total=total, desc=what, disable=None, **self._options)
        self._what, self._total, self._done = what, total, done
        self._begun = self._last_line = time.monotonic()

    def update(self, units: int = 1) -> None:
        self._done += units
        self._bar.update(units)
        now = time.monotonic()
        if self._bar.disable and now - self._last_line >= LOG_SECONDS:
            self._last_line = now
            meter = {"elapsed": now - self._begun, "prefix": self._what, "bar_format": self._line}
            line = tqdm.format_meter(self._done, self._total, **meter, **self._options)
            print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
