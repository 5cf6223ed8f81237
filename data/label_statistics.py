"""Statistics and checks of image lists and their class hierarchy.

    python data/label_statistics.py --train train.txt --val val.txt --output statistics/ \\
        --dictionary dictionary_and_semantic_hierarchy.txt

Prints a table of the data set and what is wrong with the lists; with --output, writes images per
class and annotations per image as CSV and PNG. The exit code is 0 if nothing is wrong, 1 if
something is, and 2 if the statistics could not be computed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.common import command, mirror
from data.common.parallel import cores
from data.lists.hierarchy import Hierarchy
from data.lists.statistics import (
    CHECKS,
    ListStatistics,
    count_list,
    find_overlap,
    table,
    write_files,
)

MIN_IMAGES = 100
"""A class is trainable with more training images than this (spec section 1)."""

FOUND, FAILED = 1, 2


@command.one_line_errors(failed=FAILED)
def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    hierarchy = Hierarchy.read(args.dictionary)
    lists = {"train": count_list(args.train, hierarchy, args.examples, args.processes)}
    if args.val:
        lists["val"] = count_list(args.val, hierarchy, args.examples, args.processes)
        find_overlap(lists["train"], lists["val"], args.examples)
    facts = table(hierarchy, lists["train"], lists.get("val"), args.min_images)
    print("\n".join(f"{fact:36s} {value}" for fact, value in facts))
    if args.output:
        files = write_files(Path(args.output), hierarchy, lists, args.min_images)
        print(mirror.shown(f"written: {', '.join(map(str, files))}"))
    problems = sum(_report(statistics, args.allow) for statistics in lists.values())
    return FOUND if problems else 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--train", required=True, help="the list of training images")
    add("--val", help="the list of validation images")
    add("--dictionary", required=True, help="the classes with their hierarchy")
    add("--output", help="the folder for CSV files and plots")
    add(
        "--min_images",
        type=int,
        default=MIN_IMAGES,
        help="a trainable class has more (%(default)s)",
    )
    add("--examples", type=int, default=5, help="examples shown per finding (%(default)s)")
    add(
        "--allow", nargs="+", choices=CHECKS, default=[], metavar="CHECK",
        help=f"findings that do not change the exit code: {', '.join(CHECKS)}",
    )  # fmt: skip
    add("--processes", type=int, default=cores(), help="worker processes (%(default)s)")
    read = ["train", "val", "dictionary"]
    return command.parse(parser, argv, folders=["output"], inputs=read)


def _report(statistics: ListStatistics, allowed: list[str]) -> int:
    """Prints the findings of a list and returns how many are not allowed."""
    findings = statistics.findings
    found = {check: count for check, count in findings.counts.items() if count}
    print(f"\n{statistics.path}: {'' if found else 'nothing wrong'}")
    for check, count in found.items():
        print(f"  {check}{' (allowed)' if check in allowed else ''}: {count:,} {CHECKS[check]}")
        for line, text in findings.examples[check]:
            print(f"    line {line + 1}: {text}")
    return sum(count for check, count in found.items() if check not in allowed)


if __name__ == "__main__":
    command.run(main)
