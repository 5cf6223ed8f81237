"""Takes a subset of a list: by class, by source, per-class limit, random, stratified.

    python data/subset.py --list train.txt --output dogs.txt --classes dog --descendants \\
        --per_class 500 --dictionary dictionary_and_semantic_hierarchy.txt

Conditions are applied in this order: classes and sources, --per_class, then --count or --fraction.
The same seed selects the same rows; they keep the order of the list.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from data.common import command, mirror
from data.common.errors import UserError
from data.common.files import read_text
from data.common.parallel import cores
from data.lists import selection
from data.lists.hierarchy import Hierarchy
from data.lists.selection import SOURCES, Filter, Rows

SEED = 1234


@command.one_line_errors()
def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    hierarchy = Hierarchy.read(args.dictionary) if args.dictionary else None
    sources = frozenset(args.source) if args.source else None
    rule = Filter(_wanted(args, hierarchy), hierarchy, sources, args.above)
    found, read, chunk_lines, refused = selection.find_candidates(args.list, rule, args.processes)
    rows = _chosen(args, found)
    selection.write_lines(args.list, args.output, rows.numbers, chunk_lines, args.processes)
    fit, taken, classes = len(found.numbers), len(rows.numbers), len(np.unique(rows.classes))
    print(f"{read} rows read, {refused.count} lines refused, {fit} rows fit,", end=" ")
    print(f"{taken} taken, examples of {classes} classes: {mirror.shown(args.output)}")
    refused.report()
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--list", required=True, help="the list to read")
    add("--output", required=True, help="the list to write")
    add("--dictionary", help="the classes with their hierarchy; needed for names and --descendants")
    add("--classes", nargs="+", help="rows with one of these classes: indices, ids or names")
    add("--classes_file", help="file of such classes, one per line")
    add("--descendants", action="store_true", help="also all classes below --classes")
    add("--above", type=float, default=0.0, help="labels count above this confidence (%(default)s)")
    add("--source", nargs="+", choices=SOURCES, help="rows with images from these data sets")
    add("--per_class", type=int, help="maximum rows of each (most specific) class")
    add("--count", type=int, help="number of rows to select, at random")
    add("--fraction", type=float, help="fraction of the rows to select, at random")
    add(
        "--stratified",
        action="store_true",
        help="--count or --fraction: the same fraction of each class",
    )
    add("--seed", type=int, default=SEED, help="seed of the random choice (%(default)s)")
    add("--processes", type=int, default=cores(), help="worker processes (%(default)s)")
    read = ["list", "dictionary", "classes_file"]
    args = command.parse(parser, argv, files=["output"], inputs=read)
    if args.count is not None and args.fraction is not None:
        parser.error("give --count or --fraction, not both")
    if args.stratified and args.count is None and args.fraction is None:
        parser.error("--stratified needs --count or --fraction")
    if args.descendants and not (args.dictionary and (args.classes or args.classes_file)):
        parser.error("--descendants needs --dictionary, and --classes or --classes_file")
    if args.fraction is not None and not 0 <= args.fraction <= 1:
        parser.error("--fraction must be in 0..1")
    if min(args.per_class or 1, args.count or 0) < 0:
        parser.error("--per_class and --count must not be negative")
    return args


def _wanted(args: argparse.Namespace, hierarchy: Hierarchy | None) -> np.ndarray | None:
    """bool [C]: the classes that were asked for; None for any."""
    texts = list(args.classes or [])
    if args.classes_file:
        lines = read_text(args.classes_file).splitlines()
        texts += [line.strip() for line in lines if line.strip()]
    if not texts:
        return None
    if hierarchy is None:
        others = [text for text in texts if not text.isdecimal()]
        if others:
            raise UserError(f"class {others[0]!r} is not an index: --dictionary is needed")
        classes = [int(text) for text in texts]
    else:
        classes = [hierarchy.find(text) for text in texts]
    if args.descendants:
        return hierarchy.descendants(classes)
    wanted = np.zeros(max(classes) + 1, bool)
    wanted[classes] = True
    return wanted


def _chosen(args: argparse.Namespace, rows: Rows) -> Rows:
    if args.per_class is not None:
        rows = rows.take(selection.at_most_per_class(rows, args.per_class, args.seed))
    count = args.count
    if args.fraction is not None:
        count = round(args.fraction * len(rows.numbers))
    if count is None:
        return rows
    choose = selection.stratified if args.stratified else selection.at_random
    return rows.take(choose(rows, count, args.seed))


if __name__ == "__main__":
    command.run(main)
