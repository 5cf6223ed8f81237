"""Downloads the images of a list of URLs, or of Open Images by id; resumable at any point.

    python data/download_urls_multithreading.py --url_list urls.txt --save_dir images/

Run the same command again after an interruption: finished downloads are not repeated.
--retry_failed tries the failed rows again. `mpirun -np N` divides the list among MPI ranks that
write to one folder; `--part i/n` divides it among runs on several machines: merge their folders,
then run without --part to join the parts.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.common import command
from data.common.image_memory import MAX_IMAGE_BYTES
from data.common.images import JPEG_QUALITY, MAX_PIXELS
from data.common.processes import ProcessGroup, process_group
from data.download.fetch import OPT_OUTS, USER_AGENT, Limits
from data.download.job import HOST_LIMIT, Options, Plan, download, dry_run, join, known_parts
from data.download.open_images import BUCKET, join_ids, rotations_next_to
from data.download.store import ShardOptions
from data.tfrecords.examples import KINDS

_BY_ID = "images_by_id.txt"


@command.one_line_errors(resumes=True)
def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    warnings.filterwarnings("ignore", module="PIL")  # about images that are rejected or counted
    group = process_group(args.part)
    options = _options(args, group)
    if args.dry_run:
        print(dry_run(options))
        return 0
    known = known_parts(options.save_dir)
    part, count = group.shard, group.shard.count
    if args.part is None and count == 1 and len(known) == 1:
        count = known.pop()  # earlier runs used --part: only join the parts
    plan = Plan(options, count)
    if count == part.count:
        totals = download(plan, part, args.retry_failed, args.verify)
        if count > 1:
            print(f"part {part}: {totals}")
    group.wait()
    group.report_rest()
    return _join(plan) if group.collects else 0


def _join(plan: Plan) -> int:
    totals, repeated = join(plan)
    print(totals)
    for body in repeated:
        print(f"repeated body: {body.rows} rows, sha256:{body.sha256},", end=" ")
        print(f"such as {body.example_url}")
    print(f"images: {plan.options.im_list}; failed rows: {plan.options.invalid_list}")
    if not totals.ok:
        print("error: no row could be downloaded", file=sys.stderr)
    return 0 if totals.ok else 1


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--url_list", type=Path, help="the list: a URL (or, with --url_template, an id) and labels")
    add("--im_list", type=Path, help="the list of images to write (SAVE_DIR/im_list.txt)")
    add("--num_threads", type=_positive, default=20, help="simultaneous downloads (%(default)s)")
    add("--save_dir", type=Path, default=Path("images"), help="folder (%(default)s)")
    add("--retry_failed", action="store_true", help="also try rows that failed before")
    add("--verify", action="store_true", help="compare files with their SHA-256 and download"
        " altered ones again (every run compares sizes)")  # fmt: skip
    add(
        "--dry_run",
        action="store_true",
        help="download a sample; estimate disk space and time for the whole list",
    )
    add("--part", help="i/n: only part i of n of the list, counting from 0")
    _add_ids(parser.add_argument_group("Open Images by id, instead of --url_list"))
    _add_output(parser.add_argument_group("output"))
    _add_limits(parser.add_argument_group("limits"))
    args = command.parse(parser, argv, others=["url_template", "user_agent"])
    if (args.url_list is None) == (args.image_ids is None):
        parser.error("give either --url_list or --image_ids")
    if args.kind == "dense" and not args.num_class:
        parser.error("dense labels need --num_class")
    if args.quality > 100 or args.retries < 0 or args.max_redirects < 0 or 0 < args.repeated < 3:
        parser.error(
            "--quality must be 1 to 100, --repeated 0 or at least 3, and counts not negative"
        )
    return args


def _add_ids(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--image_ids", type=Path, help="a list of ids, or the data set's CSV")
    add("--annotations", type=Path, help="a list of ids or original URLs, with labels")
    add("--url_template", help=f"a URL with {{id}} and optionally {{subset}} ({BUCKET})")


def _add_output(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--short_side", type=_positive, help="shrink images to this short side, in pixels")
    add(
        "--quality",
        type=_positive,
        default=JPEG_QUALITY,
        help="of JPEGs encoded here (%(default)s)",
    )
    add("--tfrecords", action="store_true", help="write TFRecord shards instead of image files")
    add(
        "--shard_size",
        type=_positive,
        default=ShardOptions.size,
        help="rows per shard (%(default)s)",
    )
    add("--kind", choices=KINDS, default=ShardOptions.kind, help="kind of label (%(default)s)")
    add("--num_class", type=_positive, help="classes are 0..num_class-1; dense labels need it")


def _add_limits(group: argparse._ArgumentGroup) -> None:
    add, limits = group.add_argument, Limits()
    add("--host_limit", type=_positive, help=f"threads per host ({HOST_LIMIT}; with ids, all)")
    add("--retries", type=int, default=Options.retries, help="per row (%(default)s)")
    add(
        "--connect_timeout",
        type=float,
        default=limits.connect_seconds,
        help="seconds (%(default)s)",
    )
    add(
        "--read_timeout",
        type=float,
        default=limits.read_seconds,
        help="seconds without a byte (%(default)s)",
    )
    add(
        "--time_limit",
        type=float,
        default=limits.total_seconds,
        help="seconds per attempt (%(default)s)",
    )
    add(
        "--max_bytes",
        type=_positive,
        default=limits.max_bytes,
        help="maximum per file (%(default)s)",
    )
    add("--max_pixels", type=_positive, default=MAX_PIXELS, help="maximum per image (%(default)s)")
    add("--max_image_bytes", type=_positive, default=MAX_IMAGE_BYTES, help="decoding memory")
    add("--max_redirects", type=int, default=limits.max_redirects, help="(%(default)s)")
    add("--user_agent", default=USER_AGENT, help="User-Agent header (%(default)s)")
    add("--opt_outs", default=",".join(OPT_OUTS), help="skip images sent with one of"
        " these X-Robots-Tag directives; '' skips none (%(default)s)")  # fmt: skip
    add("--placeholders", type=Path, action="append", default=[], help="a file of more placeholders"
        " for missing images, in the format of data/placeholders.txt")  # fmt: skip
    add("--repeated", type=int, default=Options.repeated_urls, help="reject a body that at least"
        " this many URLs return; 0: reject none (%(default)s)")  # fmt: skip


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be positive")
    return value


def _options(args: argparse.Namespace, group: ProcessGroup) -> Options:
    by_id = args.image_ids is not None or args.url_template is not None
    template = args.url_template or (BUCKET if args.image_ids else None)
    im_list = args.im_list or args.save_dir / "im_list.txt"
    return Options(
        url_list=_joined_list(args, template, group) if args.image_ids else args.url_list,
        save_dir=args.save_dir,
        im_list=im_list,
        invalid_list=im_list.with_name("invalid_url.txt"),
        url_template=template,
        rotations=rotations_next_to(args.save_dir / _BY_ID) if args.image_ids else None,
        threads=args.num_threads,
        host_limit=args.host_limit or (args.num_threads if by_id else HOST_LIMIT),
        retries=args.retries,
        limits=Limits(
            args.connect_timeout,
            args.read_timeout,
            args.time_limit,
            args.max_bytes,
            args.max_redirects,
        ),
        user_agent=args.user_agent,
        opt_outs=tuple(filter(None, args.opt_outs.lower().replace(" ", "").split(","))),
        short_side=args.short_side,
        quality=args.quality,
        max_pixels=args.max_pixels,
        max_image_bytes=args.max_image_bytes,
        placeholders=args.placeholders,
        repeated_urls=args.repeated,
        shards=_shards(args),
        class_num=args.num_class,
    )


def _shards(args: argparse.Namespace) -> ShardOptions | None:
    if not args.tfrecords:
        return None
    return ShardOptions(args.kind, args.num_class, args.shard_size)


def _joined_list(args: argparse.Namespace, template: str, group: ProcessGroup) -> Path:
    """The path of the list made from ids and annotations; the first rank writes it."""
    path = args.save_dir / _BY_ID
    if group.barrier is None or group.shard.index == 0:
        joined = join_ids(args.image_ids, args.annotations, "{subset}" in template, path)
        print(f"{path}: {joined.rows} ids")
        print(f"{joined.without_annotations} ids without annotations are left out")
        if args.annotations:
            print(f"{joined.annotations} annotations read")
        print(f"{joined.rotated} images are rotated by the column Rotation")
    group.wait()
    return path


if __name__ == "__main__":
    command.run(main, shares_work=True)
