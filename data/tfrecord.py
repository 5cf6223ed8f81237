"""Converts image lists and images to TFRecord shards; resumable; also verifies them.

    python data/tfrecord.py --indexs list.txt --images images/ --tfrecords records/

Lists are split into shards here, not by hand. Run the same command again after an interruption:
finished shards are kept. `mpirun -np N python data/tfrecord.py ...` divides the shards among MPI
ranks; `srun`, `horovodrun` and `--part i/n` divide them among runs that do not wait for one
another: then a single run without --part writes the manifest. All of these give the same bytes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.common import command, mirror
from data.common.errors import UserError
from data.tfrecords import conversion_script
from data.tfrecords.conversion import ListRows, plan, suffix_in
from data.tfrecords.examples import KINDS

_TRUE, _FALSE = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0", "")


@command.one_line_errors(resumes=True)
def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    if args.verify:
        return conversion_script.verify(args)
    shards = list(
        plan(_lists(args.indexs), args.shard_size, args.start_index, suffix_in(args.tfrecords))
    )
    if not Path(args.images).is_dir():
        raise UserError(f"--images {args.images}: no such folder")
    if not shards:
        raise UserError(f"--indexs {args.indexs}: no row in it")
    options = conversion_script.image_options(args, args.short_side, args.exif)
    rows = ListRows(args.images, args.kind or "sparse", args.num_class, options)
    return conversion_script.run(args, shards, rows)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-idx", "--indexs", help="a list file, or a folder of list files, read in order of name")
    add("-im", "--images", help="the folder that the lists' image names are relative to")
    add("-cls", "--num_class", type=int, help="classes are 0..num_class-1; dense labels need it")
    add(
        *("-one", "--one_hot"), type=_boolean, nargs="?", const=True,
        help="True: dense labels (--kind=dense); False: one int64 (--kind=single), as released",
    )  # fmt: skip
    add("--kind", choices=KINDS, help="kind of label (sparse)")
    add("--short_side", type=int, help="shrink images to this short side, in pixels")
    add("--exif", choices=("apply", "keep"), default="apply", help="turn images upright or not")
    args = conversion_script.parse(parser, argv)
    if not args.verify and not (args.indexs and args.images):
        parser.error("--indexs and --images are required (or --verify)")
    if args.one_hot is not None:
        released = "dense" if args.one_hot else "single"
        if args.kind not in (None, released):
            parser.error(f"--one_hot {args.one_hot} means --kind={released}, not {args.kind}")
        args.kind = released
    if args.kind == "dense" and not args.num_class:
        parser.error("dense labels need --num_class")
    for name in ("short_side", "num_class"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} must be positive")
    return args


def _boolean(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return text.lower() in _TRUE


def _lists(path: str) -> list[Path]:
    if not Path(path).is_dir():
        return [Path(path)]
    lists = sorted(p for p in Path(path).iterdir() if p.is_file() and not p.name.startswith("."))
    for found in lists:
        mirror.fetch(found)
    return lists


if __name__ == "__main__":
    command.run(main, shares_work=True)
