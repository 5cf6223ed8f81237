"""Progress of long jobs: a bar on a terminal, otherwise a log line every 30 seconds."""

from __future__ import annotations

import logging
import sys
import time

from tqdm import tqdm

from data.common import mirror

LOG_SECONDS = 30.0
_COUNT = "{{desc}}: {{n_fmt}} {units}, {{elapsed}} elapsed, {{rate_fmt}}{{postfix}}"
_COUNT_OF = (
    "{{desc}}: {{n_fmt}} of {{total_fmt}} {units},"
    " {{elapsed}} elapsed, {{remaining}} left, {{rate_fmt}}{{postfix}}"
)


class LogHandler(logging.StreamHandler):
    """Writes log lines to the standard error stream, above the bars on a terminal.

    A line is `17:48:11 message`, with its level before the message where that is not INFO.
    """

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))

    def format(self, record: logging.LogRecord) -> str:
        line = mirror.shown(super().format(record))
        if record.levelno <= logging.INFO:
            return line
        time_of_day, _, message = line.partition(" ")
        return f"{time_of_day} {record.levelname.lower()}: {message}"

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr  # which may have been replaced
        with tqdm.external_write_mode(self.stream):
            super().emit(record)


class Progress:
    """Shows how far work is, on the standard error stream.

    Args:
        what: name of the work.
        total: units of work; None if not known in advance.
        unit: name of a unit.
        done: units done by earlier runs.
        lines: whether to log lines without a terminal; False: the work has its own log.
    """

    def __init__(
        self, what: str, total: int | None, unit: str, done: int = 0, lines: bool = True
    ) -> None:
        self._options = {"unit": unit, "unit_scale": unit == "B", "initial": done}
        line = _COUNT if total is None else _COUNT_OF
        self._line = line.format(units=unit if unit == "B" else f"{unit}s")
        self._bar = tqdm(total=total, desc=what, disable=None, **self._options)
        self._what, self._total, self._before, self._done = what, total, done, done
        self._lines = lines
        self._begun = self._last_line = time.monotonic()

    def update(self, units: int = 1, note: str = "") -> None:
        """Counts units that are done; `note` is shown after the numbers."""
        self._done += units
        if not self._bar.disable:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(units)
        elif self._lines and time.monotonic() - self._last_line >= LOG_SECONDS:
            self._last_line = time.monotonic()
            meter = {"elapsed": self._last_line - self._begun, "postfix": note or None}
            meter |= {"prefix": self._what, "bar_format": self._line}
            line = tqdm.format_meter(self._done, self._total, **meter, **self._options)
            print(line, file=sys.stderr, flush=True)

    def per_second(self, units: float | None = None) -> float:
        """Units that this run has done per second; `units`: another count to use instead."""
        units = self._done - self._before if units is None else units
        return units / max(time.monotonic() - self._begun, 1e-9)

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
