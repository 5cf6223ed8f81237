"""Converts image lists and images to TFRecord shards; resumable; also verifies them.

    python data/tfrecord.py --indexs list.txt --images images/ --tfrecords records/

A list is split into shards here; nothing needs to be split by hand. Run again after an
interruption: finished shards are kept. `mpirun -np N python data/tfrecord.py ...` shares the shards
among MPI ranks; `srun`, `horovodrun` and `--part i/n` among runs that do not wait for one another,
after which one run alone, without --part, writes the manifest. Every way gives the same bytes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.common import command
from data.common.errors import UserError
from data.common.image_memory import MAX_IMAGE_BYTES
from data.common.images import JPEG_QUALITY, MAX_PIXELS
from data.common.parallel import cores
from data.common.processes import process_group
from data.tfrecords.conversion import SHARD_SIZE, Options, convert, plan, suffix_in
from data.tfrecords.examples import KINDS
from data.tfrecords.manifest import BAD_IMAGES, MANIFEST, ShardFolder, ShardReport, bad_by_reason

_TRUE, _FALSE = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0", "")


@command.one_line_errors(resumes=True)
def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    if args.verify:
        return _verify(args)
    group = process_group(args.part)
    processes = args.processes or (1 if group.barrier else cores())
    suffix = suffix_in(args.tfrecords)
    shards = list(plan(_lists(args.indexs), args.shard_size, args.start_index, suffix))
    if not Path(args.images).is_dir():
        raise UserError(f"--images {args.images}: no such folder")
    if not shards:
        raise UserError(f"--indexs {args.indexs}: no row in it")
    reports = convert(shards, _options(args), processes, group, args.retry_bad)
    if reports is None:
        group.report_rest()
        return 0
    return _report(args.tfrecords, reports)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-idx", "--indexs", help="a list file, or a folder of list files, taken in order of name")
    add("-tfs", "--tfrecords", required=True, help="the folder of shards to write")
    add("-im", "--images", help="the folder that the lists' image names are relative to")
    add("-cls", "--num_class", type=int, help="classes are 0..num_class-1; dense labels need it")
    add(
        *("-one", "--one_hot"), type=_boolean, nargs="?", const=True,
        help="True: dense labels (--kind=dense); False: one int64 (--kind=single), as released",
    )  # fmt: skip
    add("-sidx", "--start_index", type=int, default=0, help="number of the first shard")
    add("--kind", choices=KINDS, help="of label (sparse)")
    add("--shard_size", type=int, default=SHARD_SIZE, help="rows of a shard (%(default)s)")
    add("--short_side", type=int, help="shrink images to this short side, in pixels")
    add("--quality", type=int, default=JPEG_QUALITY, help="of JPEGs encoded here (%(default)s)")
    add("--exif", choices=("apply", "keep"), default="apply", help="turn images upright, or not")
    add("--max_pixels", type=int, default=MAX_PIXELS, help="larger images are refused")
    add("--max_image_bytes", type=int, default=MAX_IMAGE_BYTES, help="of memory to decode one")
    add("--retry_bad", action="store_true", help="make shards with bad rows again")
    add("--processes", type=int, help="worker processes (all cores; under mpirun 1)")
    add("--part", help="i/n: make only every n-th shard from the i-th on, i from 0")
    add("--verify", action="store_true", help="check the shards of --tfrecords and do nothing else")
    args = parser.parse_args(argv)
    if not args.verify and not (args.indexs and args.images):
        parser.error("--indexs and --images are required (or --verify)")
    if args.one_hot is not None:
        released = "dense" if args.one_hot else "single"
        if args.kind not in (None, released):
            parser.error(f"--one_hot {args.one_hot} means --kind={released}, not {args.kind}")
        args.kind = released
    if args.kind == "dense" and not args.num_class:
        parser.error("dense labels need --num_class")
    for name in ("shard_size", "short_side", "num_class", "max_pixels", "max_image_bytes"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} must be positive")
    if not 1 <= args.quality <= 100 or args.start_index < 0:
        parser.error("--quality is 1 to 100, and --start_index not negative")
    return args


def _boolean(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return text.lower() in _TRUE


def _lists(path: str) -> list[Path]:
    if not Path(path).is_dir():
        return [Path(path)]
    return sorted(p for p in Path(path).iterdir() if p.is_file() and not p.name.startswith("."))


def _options(args: argparse.Namespace) -> Options:
    return Options(
        images=args.images,
        output=args.tfrecords,
        kind=args.kind or "sparse",
        class_num=args.num_class,
        short_side=args.short_side,
        quality=args.quality,
        orientation=args.exif,
        max_pixels=args.max_pixels,
        max_image_bytes=args.max_image_bytes,
    )


def _report(folder: str, reports: list[ShardReport]) -> int:
    rows = sum(report.rows for report in reports)
    kept = sum(report.kept for report in reports)
    bad = bad_by_reason(reports)
    print(f"{rows} images in {len(reports)} shards of {folder}: {kept} kept byte for byte,", end="")
    print(f" {rows - kept} converted to JPEG; {sum(r.bytes for r in reports)} bytes")
    print(f"{sum(bad.values())} rows left out", end="")
    if bad:
        reasons = ", ".join(f"{count} {reason}" for reason, count in bad.items())
        print(f" ({reasons}): see {Path(folder, BAD_IMAGES)}", end="")
    print()
    if not rows:
        print("error: no row could be used", file=sys.stderr)
    return 0 if rows else 1


def _verify(args: argparse.Namespace) -> int:
    reports, problems = ShardFolder(args.tfrecords).verify(args.processes or cores())
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    rows, size = sum(r.rows for r in reports), sum(r.bytes for r in reports)
    print(f"{len(reports)} shards, {rows} rows, {size} bytes in {MANIFEST};", end=" ")
    print(f"{len(problems)} problems" if problems else "no problems")
    return 1 if problems else 0


if __name__ == "__main__":
    command.run(main, shares_work=True)
