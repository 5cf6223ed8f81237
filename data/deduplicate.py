"""Finds duplicate images within a list and between two (leaks), and writes lists without them.

    python data/deduplicate.py --list train.txt --val val.txt --images images/ --output unique/
    python data/deduplicate.py --list train.txt --features features.npz --output unique/

Images are duplicates if they have the same name, file bytes or decoded pixels; with --features,
written by extract_feature.py, also if the cosine of their features reaches --threshold. The first
of a group of duplicates is kept. Writes into --output each list without the others, under its own
name, `duplicates.tsv` with a line for each removed row, and `duplicates.html` with the images of
pairs.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# Our own threads compare near-duplicates; matrix products with threads of their own would wait for
# one another. Must be set before NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.common import command, mirror
from data.common.errors import UserError
from data.common.parallel import cores
from data.outputs import duplicates
from data.outputs.duplicates import HASHES, Listed, Repeats
from data.outputs.feature_files import read_table

TRAIN, VAL = "train", "val"
MANY = 0.05  # warn if features remove more than this fraction of the rows


@command.one_line_errors()
def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    folders = {args.list: args.images}
    if args.val is not None:
        val = {args.val: args.val_images or args.images}
        folders = val | folders if args.drop_from == TRAIN else folders | val
    outputs = _outputs(args.output, [args.list, args.val] if args.val else [args.list])
    tables = [read_table(path) for path in args.features or []]
    lists = [Listed.read(path, folder, args.processes) for path, folder in folders.items()]
    repeats = Repeats.of(lists)
    repeats.find_same(args.hash or (HASHES[-1] if tables else HASHES[0]), args.processes)
    if tables:
        repeats.find_near(tables, args.threshold)
    for number, output in enumerate(outputs[listed.path] for listed in lists):
        changed = duplicates.write_list(output, repeats, number, args.merge_labels)
        merged = f", labels of {changed:,} rows merged" if args.merge_labels else ""
        print(f"{repeats.counts(number)}{merged}: {mirror.shown(str(output))}")
    duplicates.write_report(args.output / "duplicates.tsv", repeats)
    if args.pairs:
        page = args.output / "duplicates.html"
        duplicates.write_page(page, repeats, args.pairs)
        print(f"pairs to look at: {mirror.shown(str(page))}")
    duplicates.report_problems(repeats)
    near, rows = repeats.near(), repeats.starts[-1]
    if near > MANY * rows:
        print(
            f"warning: {near:,} of {rows:,} rows are left out because their features are alike;"
            f" if the pairs are not duplicates, raise --threshold (now {args.threshold})",
            file=sys.stderr,
        )
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--list", type=Path, required=True, help="the list of images, for example of training")
    add("--val", type=Path, help="a second list, whose images should not be in the first")
    add("--output", type=Path, required=True, help="the folder to write")
    add("--images", help="folder of the images (default: the working folder, or the list's)")
    add("--val_images", help="folder of the images of --val (default: --images)")
    add("--hash", choices=HASHES, help="what to compare (pixels; none with --features)")
    add("--features", nargs="+", help="features of the images: .npz, .npy, .parquet or .txt")
    add(
        "--threshold",
        type=float,
        default=0.95,
        help="least cosine of near-duplicates (%(default)s)",
    )
    add(
        "--drop_from", choices=(TRAIN, VAL), default=TRAIN,
        help="which list loses an image that is in both: --list (train) or --val (%(default)s)",
    )  # fmt: skip
    add("--merge_labels", action="store_true", help="kept rows get the labels of their duplicates")
    add("--pairs", type=int, default=100, help="pairs of each kind on the page; 0: no page (100)")
    add("--processes", type=int, default=cores(), help="worker processes (%(default)s)")
    args = command.parse(parser, argv, folders=["output"], inputs=["features"])
    if not 0 < args.threshold <= 1:
        parser.error("--threshold is a cosine, above 0 and at most 1")
    return args


def _outputs(folder: Path, paths: list[Path]) -> dict[Path, Path]:
    """Where each list is written. Raises UserError if it would overwrite another or its input."""
    outputs = {path: folder / path.name for path in paths}
    if len({path.name for path in paths}) < len(paths):
        raise UserError(f"--list and --val are both called {paths[0].name}: rename one")
    for path, output in outputs.items():
        if output.resolve() == path.resolve():
            raise UserError(f"--output {folder} would overwrite {path}: give another folder")
    return outputs


if __name__ == "__main__":
    command.run(main)
