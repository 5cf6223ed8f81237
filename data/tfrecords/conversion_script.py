"""Shared by the scripts that write records: arguments, conversion, report and `--verify`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from data.common import command, mirror
from data.common.image_memory import MAX_IMAGE_BYTES
from data.common.images import JPEG_QUALITY, MAX_PIXELS
from data.common.parallel import cores
from data.common.processes import process_group
from data.tfrecords import manifest
from data.tfrecords.conversion import SHARD_SIZE, ImageOptions, Rows, convert
from data.tfrecords.manifest import BAD_IMAGES, MANIFEST, ShardReport, bad_by_kind


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Adds the shared arguments to those of a script, and parses them."""
    add = parser.add_argument
    add("-tfs", "--tfrecords", required=True, help="folder for the shards")
    add("-sidx", "--start_index", type=int, default=0, help="number of the first shard")
    add("--shard_size", type=int, default=SHARD_SIZE, help="rows per shard (%(default)s)")
    add("--quality", type=int, default=JPEG_QUALITY, help="of re-encoded JPEGs (%(default)s)")
    add("--max_pixels", type=int, default=MAX_PIXELS, help="larger images are refused")
    add("--max_image_bytes", type=int, default=MAX_IMAGE_BYTES, help="memory to decode one")
    add("--retry_bad", action="store_true", help="rewrite shards that have bad rows")
    add("--processes", type=int, help="worker processes (default: all cores; under mpirun 1)")
    add("--part", help="i/n: make only every n-th shard from the i-th on, i from 0")
    add("--verify", action="store_true", help="check the shards of --tfrecords and do nothing else")
    read = ["indexs", "classes", "coco"]
    args = command.parse(parser, argv, inputs=read, others=["tfrecords"])
    if not args.verify:
        args.tfrecords = mirror.open_folder("tfrecords", args.tfrecords)
    for name in ("shard_size", "max_pixels", "max_image_bytes"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be positive")
    if not 1 <= args.quality <= 100 or args.start_index < 0:
        parser.error("--quality must be 1 to 100, and --start_index must not be negative")
    return args


def image_options(
    args: argparse.Namespace, short_side: int | None = None, orientation: str = "apply"
) -> ImageOptions:
    """The `ImageOptions` that the arguments ask for; the others are passed on."""
    limits = args.max_pixels, args.max_image_bytes
    return ImageOptions(short_side, args.quality, orientation, *limits)


def run(args: argparse.Namespace, shards: Sequence[Any], rows: Rows) -> int:
    """Converts the rows, or this process's part of them; returns the exit code.

    Raises:
        UserError: see `convert`.
    """
    group = process_group(args.part)
    processes = args.processes or (1 if group.barrier else cores())
    reports = convert(shards, rows, args.tfrecords, processes, group, args.retry_bad)
    if reports is None:
        group.report_rest()
        return 0
    return _report(mirror.shown(args.tfrecords), reports)


def _report(folder: str, reports: list[ShardReport]) -> int:
    rows = sum(report.rows for report in reports)
    kept = sum(report.kept for report in reports)
    clipped = sum(report.clipped_boxes for report in reports)
    bad = bad_by_kind(reports)
    print(f"{rows} images in {len(reports)} shards of {folder}: {kept} kept byte for byte,", end="")
    print(f" {rows - kept} converted to JPEG; {sum(r.bytes for r in reports)} bytes")
    if clipped:
        print(f"{clipped} boxes extended beyond their image and were clipped to it")
    print(f"{sum(bad.values())} rows left out", end="")
    if bad:
        kinds = ", ".join(f"{count} {kind}" for kind, count in bad.items())
        print(f" ({kinds}): see {folder.rstrip('/')}/{BAD_IMAGES}", end="")
    print()
    if not rows:
        first = next((row for report in reports for row in report.bad), ("the list is empty",))
        print(f"error: no row could be used: {': '.join(first)}", file=sys.stderr)
    return 0 if rows else 1


def verify(args: argparse.Namespace) -> int:
    """Checks the shards of `--tfrecords`; returns the exit code."""
    reports, problems = manifest.verify(args.tfrecords, args.processes or cores())
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    rows, size = sum(r.rows for r in reports), sum(r.bytes for r in reports)
    print(f"{len(reports)} shards, {rows} rows, {size} bytes in {MANIFEST};", end=" ")
    print(f"{len(problems)} problems" if problems else "no problems")
    return 1 if problems else 0
