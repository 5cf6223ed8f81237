"""Makes a page to browse a data set: tree of classes, counts, images, search, co-occurring labels.

    python data/browse.py --list train.txt --images images/ --dictionary dictionary.txt \\
        --output browse/
    python data/browse.py --records records/ --dictionary dictionary.txt --output browse.html

Open browse/index.html from disk; it needs no server. An --output that ends in .html is a single
file with the thumbnails embedded, which works for up to a few thousand of them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.common import command, mirror
from data.common.parallel import cores
from data.lists.hierarchy import Hierarchy
from data.outputs import class_browser
from data.outputs.class_browser import SurveyOptions


@command.one_line_errors()
def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    hierarchy = Hierarchy.read_any(args.dictionary)
    options = SurveyOptions(args.per_class, args.pair_rows, args.seed)
    refused = []
    if args.records:
        given = args.records, hierarchy, options, args.max_bad_records
        survey, image = class_browser.survey_records(*given)
    else:
        given = args.list, hierarchy, options, args.images, args.processes
        survey, image, refused = class_browser.survey_lists(*given)
    limits = args.per_class, args.thumbnails, args.processes
    thumbnails = class_browser.make_thumbnails(survey.drawn(), image, *limits)
    title = args.title or Path(args.records or args.list[0]).stem
    page = class_browser.write_page(Path(args.output), title, hierarchy, survey, thumbnails)
    print(f"{survey.rows:,} rows, {len(hierarchy):,} classes,", end=" ")
    print(f"{len(thumbnails.images):,} thumbnails,", end=" ")
    print(f"{thumbnails.missing:,} images missing or unreadable: {mirror.shown(str(page))}")
    if thumbnails.missing and not thumbnails.images and not args.records:
        print("warning: no image was found: check that --images is their folder", file=sys.stderr)
    for problems in refused:
        problems.report()
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--list", nargs="+", help="lists of images")
    source.add_argument("--records", help="TFRecords: a folder, a file or a glob")
    add("--dictionary", required=True, help="the classes, with their hierarchy or only their names")
    add("--output", required=True, help="the folder to write, or a page that ends in .html")
    add("--images", help="folder of the lists' images (default: the working folder, or a list's)")
    add("--title", help="heading of the page (default: the name of the list or of the records)")
    add("--per_class", type=int, default=8, help="images shown per class (%(default)s)")
    add("--thumbnails", type=int, default=20_000, help="maximum number in all (%(default)s)")
    add(
        "--pair_rows", type=int, default=200_000,
        help="random rows whose co-occurring labels are counted (%(default)s)",
    )  # fmt: skip
    add("--seed", type=int, default=1234, help="seed of the random choices (%(default)s)")
    add("--max_bad_records", type=int, default=100, help="fail if there are more (%(default)s)")
    add("--processes", type=int, default=cores(), help="worker processes (%(default)s)")
    places = {"files": ["output"], "inputs": ["dictionary"], "others": ["records", "title"]}
    args = command.parse(parser, argv, **places)
    if min(args.per_class, args.thumbnails, args.pair_rows) < 0:
        parser.error("--per_class, --thumbnails and --pair_rows must not be negative")
    return args


if __name__ == "__main__":
    command.run(main)
