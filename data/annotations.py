"""Rewrites the labels of a list: mapped classes, ancestors, co-occurring labels (spec 1).

    python data/annotations.py --list old.txt --output new.txt --ancestors \\
        --dictionary dictionary_and_semantic_hierarchy.txt

First, labels are translated, and those outside the vocabulary are dropped. Then labels that
co-occur with a class are added (--predictions or --co_matrix) and, with --ancestors, all ancestors
of all labels.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from data.common import command
from data.common.parallel import cores
from data.lists import cooccurrence
from data.lists.annotation import (
    Annotator,
    Expansion,
    LabelMapping,
    Totals,
    annotate,
    annotated_blocks,
)
from data.lists.blocks import Refused
from data.lists.cooccurrence import Cooccurrence
from data.lists.hierarchy import Hierarchy, index_of_ids, mapping_from


@command.one_line_errors()
def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    hierarchy = Hierarchy.read(args.dictionary)
    label_mapping = _label_mapping(args, hierarchy)
    pairs = _pairs(args, hierarchy, label_mapping)
    expansion = Expansion.of(hierarchy, args.ancestors, pairs)
    annotator = Annotator(label_mapping, expansion, args.keep_untagged)
    totals, refused = annotate(args.list, args.output, annotator, args.processes)
    _report(totals, refused)
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--list", required=True, help="the list to read")
    add("--dictionary", required=True, help="the classes to write, with their hierarchy")
    add("--output", required=True, help="the list to write")
    add("--ancestors", action="store_true", help="annotate every ancestor of a label")
    add("--tags", choices=("index", "id"), default="index", help="what the list's labels are")
    add("--from_dictionary", help="dictionary that the list's indices refer to, if different")
    add("--synonyms", help="lines `id<TAB>class`: another data set's ids for our classes")
    add("--keep_untagged", action="store_true", help="also write rows left without a label")
    add("--predictions", help="label_pred.txt of image_classification.py, for images of the list")
    add("--prediction_dictionary", help="the classes of the model that predicted, if different")
    add("--posterior", type=float, default=0.95, help="a label is seen above this (%(default)s)")
    add("--co_matrix", help="a saved co-occurrence matrix, instead of --predictions")
    add("--co_threshold", type=float, default=0.5, help="labels are added above this (%(default)s)")
    add("--save_co_matrix", help="write the normalized co-occurrence matrix here")
    add("--processes", type=int, default=cores(), help="worker processes (%(default)s)")
    read = ["list", "dictionary", "from_dictionary", "synonyms", "predictions"]
    read += ["prediction_dictionary", "co_matrix"]
    args = command.parse(parser, argv, files=["output", "save_co_matrix"], inputs=read)
    if args.predictions and args.co_matrix:
        parser.error("give --predictions or --co_matrix, not both")
    if args.save_co_matrix and not args.predictions:
        parser.error("--save_co_matrix needs --predictions to count from")
    if args.tags == "id" and args.from_dictionary:
        parser.error("--from_dictionary translates indices, but --tags=id says there are none")
    return args


def _label_mapping(args: argparse.Namespace, hierarchy: Hierarchy) -> LabelMapping:
    same = np.arange(len(hierarchy), dtype=np.int32)
    if args.tags == "index" and not args.from_dictionary:
        return LabelMapping(same)
    indices = index_of_ids(hierarchy, args.synonyms)
    if args.from_dictionary:
        return LabelMapping(mapping_from(args.from_dictionary, indices))
    return LabelMapping(same, {i.encode(): str(c).encode() for i, c in indices.items()})


def _pairs(
    args: argparse.Namespace, hierarchy: Hierarchy, label_mapping: LabelMapping
) -> list[tuple[int, int]]:
    """The pairs (class, co-occurring label) to add."""
    if args.co_matrix:
        matrix = Cooccurrence.read(args.co_matrix, len(hierarchy))
    elif args.predictions:
        mapping = np.arange(len(hierarchy), dtype=np.int32)
        if args.prediction_dictionary:
            indices = index_of_ids(hierarchy, args.synonyms)
            mapping = mapping_from(args.prediction_dictionary, indices)
        rows = annotated_blocks(args.list, label_mapping, Expansion.of(hierarchy, args.ancestors))
        matrix = cooccurrence.count(rows, args.predictions, mapping, args.posterior, len(hierarchy))
    else:
        return []
    if args.save_co_matrix:
        matrix.save(args.save_co_matrix)
    pairs = matrix.pairs_above(args.co_threshold, hierarchy)
    print(f"{len(matrix.labels)} pairs occur, {len(pairs)} above {args.co_threshold} are added")
    return pairs


def _report(totals: Totals, refused: Refused) -> None:
    kept = totals.labels - totals.labels_repeated - totals.labels_dropped
    print(f"rows: {totals.rows} read, {totals.rows_written} written,", end=" ")
    print(f"{totals.rows_unlabeled} left out without a label, {refused.count} lines refused")
    print(f"labels: {totals.labels} read, {totals.labels_repeated} repeated in their row,", end=" ")
    print(f"{totals.labels_dropped} outside the vocabulary, {kept} kept;", end=" ")
    print(f"{totals.labels_written} written")
    refused.report()


if __name__ == "__main__":
    command.run(main)
