"""Progress and summary of a download, and the estimate of a dry run."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from data.common.sharding import Shard
from data.download.fetch import FetchError
from data.download.finish import Repeated, Totals
from data.download.job import Options, Plan, download
from data.download.manifest import Manifest
from data.download.store import Stored
from data.lists.rows import format_row, read_rows

LOG_SECONDS = 30.0
_SHOWN_KINDS = 20
_SAMPLED_ROWS = 200


class Progress:
    """Shows a download: a bar on a terminal, otherwise a line every half minute."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._begun = self._last_line = time.monotonic()
        self._images = self._bytes = self._failures = 0

    def watch(self, manifest: Manifest, result: Stored | FetchError | None) -> None:
        """Told of each final result; see `download.download`."""
        if self._bar is None:
            rows = len(manifest.codes)
            done = rows - manifest.codes.count(0)
            self._bar = tqdm(total=rows, initial=done, unit="row", smoothing=0.05, disable=None)
        if result is None:
            return
        if isinstance(result, FetchError):
            self._failures += 1
        else:
            self._images += 1
            self._bytes += result.bytes
        if not self._bar.disable:
            self._bar.update()
            self._bar.set_postfix_str(self._rates(), refresh=False)
        elif time.monotonic() - self._last_line > LOG_SECONDS:
            self._last_line = time.monotonic()
            rows = len(manifest.codes)
            done = rows - manifest.codes.count(0)
            print(f"{done} of {rows} rows; {self._rates()}", file=sys.stderr, flush=True)

    def close(self) -> str:
        """Ends the bar; what this run has done, or nothing to say."""
        if self._bar is not None:
            self._bar.close()
        return self._rates() if self._images or self._failures else ""

    def _rates(self) -> str:
        seconds = max(1e-3, time.monotonic() - self._begun)
        images, megabytes = self._images / seconds, self._bytes / seconds / 1e6
        return f"{images:.1f} images/s, {megabytes:.1f} MB/s, {self._failures} failed"


def describe(totals: Totals, repeated: Sequence[Repeated] = ()) -> str:
    """The totals, failures by reason, and bodies that came from many URLs."""
    failed = sum(totals.failed.values())
    converted = totals.kinds.get("converted", 0)
    lines = [
        f"{totals.rows} rows: {totals.ok} ok ({converted} converted), {failed} failed,"
        f" {totals.pending} pending; {totals.stored_bytes / 1e6:.1f} MB"
    ]
    reasons = list(totals.failed.items())
    lines += [f"  {count:>9} {kind}" for kind, count in reasons[:_SHOWN_KINDS]]
    if len(reasons) > _SHOWN_KINDS:
        rest = sum(count for _, count in reasons[_SHOWN_KINDS:])
        lines.append(f"  {rest:>9} for {len(reasons) - _SHOWN_KINDS} other reasons")
    lines += [
        f"repeated body: {body.rows} rows, sha256:{body.sha256}, such as {body.example_url}"
        for body in repeated
    ]
    return "\n".join(lines)


def dry_run(options: Options, rows: int = _SAMPLED_ROWS) -> str:
    """Downloads a sample of the list, spread evenly, to nowhere, and says what the whole takes."""
    count = sum(1 for _ in read_rows(options.url_list, options.class_num))
    sampled = min(rows, count)
    if not sampled:
        return f"{options.url_list}: no rows"
    options.save_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.save_dir, prefix=".dry_run") as folder:
        sample = Path(folder, "list.txt")
        with open(sample, "w", encoding="utf-8") as file:
            for number, row in enumerate(read_rows(options.url_list)):
                if number * sampled // count != (number + 1) * sampled // count:
                    file.write(format_row(row) + "\n")
        begun = time.monotonic()
        target = Path(folder, "images")
        totals = download(Plan(replace(options, url_list=sample, save_dir=target)), Shard())
        seconds = time.monotonic() - begun
    size = totals.stored_bytes / max(1, totals.ok)
    ok = totals.ok / sampled
    free = shutil.disk_usage(options.save_dir).free
    return "\n".join(
        [
            f"sample of {sampled} of {count} rows in {seconds:.1f} s: {describe(totals)}",
            f"the whole list: about {count * ok:.0f} images,",
            f"  disk {count * ok * size / 1e9:.1f} GB ({size / 1e3:.0f} kB per image;"
            f" {free / 1e9:.1f} GB are free in {options.save_dir})",
            f"  time {_duration(seconds / sampled * count)} with {options.threads} threads",
        ]
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
