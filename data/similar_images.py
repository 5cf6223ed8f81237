"""Writes a page of images, each with its nearest neighbors by features.

    python data/similar_images.py --features features.npz --output similar.html

Features come from extract_feature.py; the names in them are the paths of the images.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from data.common import command, html_report, mirror
from data.common.errors import UserError
from data.common.files import atomic_write
from data.common.images import ImageError
from data.outputs.feature_files import Table, read_table
from data.outputs.neighbors import nearest

THUMBNAIL_SIDE = 144


@command.one_line_errors()
def main(argv: list[str] | None = None) -> int:
    options = _parse(argv)
    table = read_table(options.features)
    queries = read_table(options.queries) if options.queries else table
    rows = _query_rows(queries, options)
    # One more neighbor: a query from the table finds itself, too, and is left out.
    found, cosines = nearest(table.values, queries.values[rows], options.neighbors + 1)
    sections = [
        _section(table, queries.names[row], *pair, options.neighbors)
        for row, *pair in zip(rows, found, cosines, strict=True)
    ]
    page = html_report.page("Similar images", sections)
    atomic_write(options.output, page.encode("utf-8", "replace"))
    print(f"{len(sections)} images with their neighbors among {len(table.names)}: ", end="")
    print(mirror.shown(options.output))
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--features", required=True, help="features to search: .npz, .npy, .txt or .parquet")
    add("--queries", help="features of the query images (default: --features)")
    add("--names", nargs="*", help="query images (default: some, evenly spaced)")
    add("--count", type=int, default=20, help="number of queries without --names (default 20)")
    add("--neighbors", "--neighbours", type=int, default=7, help="shown for each image (default 7)")
    add("--output", default="similar.html", help="page to write (default similar.html)")
    places = {"files": ["output"], "inputs": ["features", "queries"], "others": ["names"]}
    return command.parse(parser, argv, **places)


def _query_rows(table: Table, options: argparse.Namespace) -> list[int]:
    """Rows of the query table; without --names, unreadable images are skipped."""
    names = table.names
    if not options.names:
        step = max(1, len(names) // max(1, options.count))
        spread = range(0, len(names), step)[: options.count]
        return [row for row in spread if np.isfinite(table.values[row]).all()]
    row_of = {name: row for row, name in reversed(list(enumerate(names)))}
    unknown = [name for name in options.names if name not in row_of]
    if unknown:
        raise UserError(f"--names {unknown[0]}: not among the {len(names)} images with features")
    return [row_of[name] for name in options.names]


def _section(
    table: Table, name: str, rows: np.ndarray, cosines: np.ndarray, count: int
) -> tuple[str, str]:
    """Heading and images of one query: itself, then its neighbors with their cosines."""
    pairs = [(table.names[row], cosine) for row, cosine in zip(rows, cosines, strict=True)]
    others = [pair for pair in pairs if pair[0] != name and np.isfinite(pair[1])][:count]
    figures = [html_report.figure(_thumbnail(name), "looked for", THUMBNAIL_SIDE)]
    figures += [
        html_report.figure(_thumbnail(other), f"{cosine:.3f}\n{Path(other).name}", THUMBNAIL_SIDE)
        for other, cosine in others
    ]
    return name, "\n".join(figures)


def _thumbnail(name: str) -> str:
    """An image as a data URL; empty if it cannot be read (a record, a moved file)."""
    try:
        return html_report.thumbnail(Path(name).read_bytes(), THUMBNAIL_SIDE)
    except (ImageError, OSError):
        return ""


if __name__ == "__main__":
    command.run(main)
