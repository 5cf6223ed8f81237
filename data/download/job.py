"""Downloads a list of URLs or image ids to image files or shards; resumable.

`download` fetches the rows of one part of a list; `join` merges the parts. The result of each row
is recorded only in the manifest of its part (data/download/manifest.py).
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from data.common.errors import UserError
from data.common.files import rewritten, sha256
from data.common.image_memory import MAX_IMAGE_BYTES
from data.common.images import JPEG_QUALITY, MAX_PIXELS, ImageError
from data.common.parallel import cores
from data.common.progress import Progress
from data.common.sharding import Shard
from data.download.engine import THREADS_PER_PROCESS, Engine
from data.download.fetch import OPT_OUTS, USER_AGENT, Fetcher, FetchError, Limits
from data.download.manifest import (
    LOST,
    PENDING,
    REPEATED,
    Entry,
    Manifest,
    Repeated,
    Totals,
    is_whole,
    mark_lost,
    mark_repeated,
    read_settings,
    totals,
)
from data.download.names import FLAT_ROWS, Naming, host_of
from data.download.open_images import read_rotations
from data.download.scheduler import Scheduler, Task
from data.download.store import (
    PLACEHOLDERS,
    Placeholders,
    ShardMaker,
    ShardOptions,
    Store,
    Stored,
    partial_name,
)
from data.lists.rows import Row, count_lines, format_row, read_rows
from data.tfrecords.manifest import ShardFolder

HOST_LIMIT = 8
"""Default limit of concurrent requests to one host; a download by id uses all threads."""

PATIENCE_SECONDS = 30.0
"""Time after an attempt's timeout until its process is killed."""

_RETRIED = ("offline", LOST)  # not the row's fault, so every run retries these
_WITHOUT_ANSWER = {"pending", "offline", "unreachable", "bad_url"}  # no host has answered

_SAMPLED_ROWS = 200  # in a dry run
_MANIFEST = re.compile(r"download_manifest(?:-\d{5}-of-(\d{5}))?\.tsv")


@dataclass(frozen=True)
class Options:
    """What to download, and how.

    Attributes:
        url_list: the list to download: a URL (or an id, with `url_template`) and labels per row.
        save_dir: the folder of images, manifests and shards.
        im_list: output list of downloaded rows; names are relative to `save_dir`.
        invalid_list: output list of failed rows.
        url_template: see `data/download/names.py`.
        rotations: file with the rotations of images, see `open_images.read_rotations`.
        threads: number of concurrent attempts.
        host_limit: number of concurrent attempts to one host.
        retries: number of attempts after the first one.
        limits, user_agent, opt_outs: see `data/download/fetch.py`.
        short_side, quality, max_pixels, max_image_bytes: see `data/common/images.py`.
        placeholders: files of placeholders in addition to the project's own.
        repeated_urls: a body returned by at least this many URLs fails as repeated; 0: never.
        shards: write TFRecord shards instead of image files.
        class_num: labels must be in 0..class_num-1; None allows any.
    """

    url_list: Path
    save_dir: Path
    im_list: Path
    invalid_list: Path
    url_template: str | None = None
    rotations: Path | None = None
    threads: int = 20
    host_limit: int = HOST_LIMIT
    retries: int = 4
    limits: Limits = field(default_factory=Limits)
    user_agent: str = USER_AGENT
    opt_outs: Collection[str] = OPT_OUTS
    short_side: int | None = None
    quality: int = JPEG_QUALITY
    max_pixels: int = MAX_PIXELS
    max_image_bytes: int = MAX_IMAGE_BYTES
    placeholders: Sequence[Path] = ()
    repeated_urls: int = 10
    shards: ShardOptions | None = None
    class_num: int | None = None


class Plan:
    """The parts of a list, their manifests and shards, and all settings that determine the output.

    Args:
        count: number of parts.

    Raises:
        UserError: the folder holds a download with a different number of parts.
    """

    def __init__(self, options: Options, count: int = 1) -> None:
        others = known_parts(options.save_dir) - {count}
        if others:
            raise UserError(
                f"{options.save_dir} holds a download in {others.pop()} parts, not {count}:"
                " give the same number, or another --save_dir"
            )
        is_jpeg = options.shards is not None or options.short_side is not None
        in_folders = options.shards is None and count_lines(options.url_list) > FLAT_ROWS
        self.options = options
        self.parts = [Shard(index, count) for index in range(count)]
        self.naming = Naming(options.url_template, in_folders, ".jpg" if is_jpeg else None)
        self.rotations = read_rotations(options.rotations) if options.rotations else {}
        self._settings = {
            "list_sha256": sha256(options.url_list),
            "naming": asdict(self.naming),
            "short_side": options.short_side,
            "quality": options.quality if is_jpeg else None,
            "class_num": options.class_num,
            "shards": asdict(options.shards) if options.shards else None,
            "rotations": sha256(options.rotations) if self.rotations else None,
        }

    def rows(self, part: Shard) -> Iterator[Row]:
        """The rows of a part of the list, in order."""
        return read_rows(self.options.url_list, self.options.class_num, part)

    def open(self, part: Shard) -> Manifest:
        """Opens the manifest of a part.

        For a new manifest, the entire part is read first, so that a malformed row is reported now
        and not after days of downloading.

        Raises:
            ListError: a row is malformed.
            UserError: see `Manifest`.
        """
        path = self.options.save_dir / f"download_manifest{part.suffix}.tsv"
        settings = {**self._settings, "part": str(part)}
        stored, is_sealed = read_settings(path)
        is_checked = is_sealed and {**stored, "rows": 0} == {**settings, "rows": 0}
        rows = stored["rows"] if is_checked else sum(1 for _ in self.rows(part))
        path.parent.mkdir(parents=True, exist_ok=True)
        return Manifest(path, {**settings, "rows": rows}, rows)

    def shard_maker(self, part: Shard, manifest: Manifest) -> ShardMaker | None:
        """The maker of a part's shards; None if images are written as files."""
        options = self.options
        if options.shards is None:
            return None
        spool = options.save_dir / f".spool{part.suffix}"
        prefix = f"{part.suffix[1:]}-" if part.suffix else ""
        rows = self.rows(part)
        return ShardMaker(
            options.shards, options.save_dir, spool, prefix, rows, manifest, self.naming
        )


def known_parts(save_dir: Path) -> set[int]:
    """The numbers of parts of the downloads in this folder; empty if there are none."""
    names = (path.name for path in save_dir.glob("download_manifest*.tsv"))
    return {int(match[1] or 1) for match in map(_MANIFEST.fullmatch, names) if match}


def download(
    plan: Plan,
    part: Shard,
    retry_failed: bool = False,
    verify: bool = False,
) -> Totals:
    """Fetches the pending rows of a part.

    Rows whose files were since deleted or changed in size become pending again, as do rows that
    failed because our own network was down.

    Args:
        retry_failed: also fetch all rows that failed in earlier runs.
        verify: also compare the content of files with their SHA-256.

    Returns:
        the totals of the part.

    Raises:
        UserError: no request can succeed on this machine; no row is marked as failed.
        OSError: a file cannot be written. Finished rows are kept, as after any interruption.
    """
    options = plan.options
    fetcher = Fetcher(options.limits, options.threads, options.user_agent, options.opt_outs)
    with plan.open(part) as manifest:
        shards = plan.shard_maker(part, manifest)
        mark_lost(manifest, lambda entry: _is_kept(entry, options.save_dir, shards, verify))
        has_answered = bool(manifest.counts().keys() - _WITHOUT_ANSWER)
        manifest.forget_failures(*(() if retry_failed else _RETRIED))
        scheduler = Scheduler(options.host_limit, options.retries, has_answered)
        engine = _engine(plan, part, shards, fetcher, scheduler)
        rows, images, size, failed = len(manifest.codes), 0, 0, 0
        with Progress("download", rows, "row", rows - manifest.codes.count(PENDING)) as progress:
            for task, result in engine.run(_pending(plan, part, manifest)):
                manifest.append(_entry(task, result))
                if shards:
                    shards.advance()
                if isinstance(result, FetchError):
                    failed += 1
                else:
                    images, size = images + 1, size + result.bytes
                rates = progress.per_second(images), progress.per_second(size) / 1e6
                progress.update(1, "{:.1f} images/s, {:.1f} MB/s, {} failed".format(*rates, failed))
        return totals([manifest])


def _is_kept(entry: Entry, folder: Path, shards: ShardMaker | None, by_hash: bool) -> bool:
    return shards.holds(entry, by_hash) if shards else is_whole(folder / entry.file, entry, by_hash)


def _engine(
    plan: Plan, part: Shard, shards: ShardMaker | None, fetcher: Fetcher, scheduler: Scheduler
) -> Engine:
    options = plan.options
    store = Store(
        shards.spool if shards else options.save_dir,
        Placeholders([PLACEHOLDERS, *options.placeholders]),
        as_jpeg=shards is not None,
        short_side=options.short_side,
        quality=options.quality,
        max_pixels=options.max_pixels,
        max_image_bytes=options.max_image_bytes,
    )

    def fetch(task: Task) -> tuple[bytes, str]:
        return fetcher.fetch(task.url)

    def store_body(task: Task, fetched: tuple[bytes, str]) -> Stored:
        name = f"{shards.spool_folder(task.row)}/{task.file}" if shards else task.file
        try:
            return store.store(*fetched, name, partial_name(task.row, part), task.rotation)
        except ImageError as error:
            raise FetchError(error.kind, str(error), error.kind == "truncated") from error

    processes = min(cores(), -(-options.threads // THREADS_PER_PROCESS))
    return Engine(
        fetch,
        store_body,
        scheduler,
        options.threads,
        processes,
        storing_threads=-(-cores() // processes),
        patience_seconds=options.limits.total_seconds + PATIENCE_SECONDS,
    )


def _pending(plan: Plan, part: Shard, manifest: Manifest) -> Iterator[Task]:
    for number, row in enumerate(plan.rows(part)):
        if manifest.codes[number] == PENDING:
            url = plan.naming.url(row.image)
            rotation = plan.rotations.get(row.image, 0)
            yield Task(number, plan.naming.file(row.image), url, host_of(url), rotation)


def _entry(task: Task, result: Stored | FetchError) -> Entry:
    if isinstance(result, FetchError):
        return Entry(task.row, task.url, result.kind, error=str(result))
    status = "converted" if result.is_converted else "ok"
    return Entry(task.row, task.url, status, task.file, *result[:4])


def join(plan: Plan) -> tuple[Totals, list[Repeated]]:
    """Merges all parts: marks repeated bodies, writes the lists, completes the shards.

    Returns:
        the totals of the list, and the repeated bodies, most frequent first.

    Raises:
        UserError: some rows are still pending.
    """
    options = plan.options
    with ExitStack() as stack:
        manifests = [stack.enter_context(plan.open(part)) for part in plan.parts]
        pending = totals(manifests).pending
        if pending:
            raise UserError(f"{options.save_dir}: {pending} rows are pending; run all parts")
        repeated = []
        if options.repeated_urls:
            repeated = mark_repeated(manifests, options.repeated_urls)
        for part, manifest in zip(plan.parts, manifests, strict=True):
            if shards := plan.shard_maker(part, manifest):
                shards.advance()
                shards.close()
        if options.shards:
            ShardFolder(options.save_dir).finish()
        write_lists(plan, manifests)
        return totals(manifests), repeated


def write_lists(plan: Plan, manifests: Sequence[Manifest]) -> None:
    """Writes the lists of images and of failed rows, with labels, in the order of the input list.

    Also removes files of repeated bodies and partially written files. The list of failed rows holds
    URLs (or ids), so it can be the input of another download.

    Args:
        manifests: the manifests of all parts of the list, in order, without pending rows.
    """
    options = plan.options
    with rewritten(options.im_list) as images, rewritten(options.invalid_list) as invalid:
        for part, manifest in zip(plan.parts, manifests, strict=True):
            for number, row in enumerate(plan.rows(part)):
                name = plan.naming.file(row.image)
                if manifest.is_ok(number):
                    images.write(f"{format_row(row._replace(image=name))}\n".encode())
                    continue
                file = options.save_dir / name
                file.with_name(partial_name(number, part)).unlink(missing_ok=True)
                if manifest.kind(number) == REPEATED:
                    file.unlink(missing_ok=True)
                invalid.write(f"{format_row(row)}\n".encode())


def dry_run(options: Options, rows: int = _SAMPLED_ROWS) -> str:
    """Downloads an evenly spaced sample to a temporary folder; estimates time and disk space.

    Args:
        rows: size of the sample.

    Returns:
        a report of several lines.
    """
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
        found = download(Plan(replace(options, url_list=sample, save_dir=target)), Shard())
        seconds = time.monotonic() - begun
    size = found.stored_bytes / max(1, found.ok)
    ok = found.ok / sampled
    free = shutil.disk_usage(options.save_dir).free
    return "\n".join(
        [
            f"sample of {sampled} of {count} rows in {seconds:.1f} s: {found}",
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
