"""Writes a page of images, each with its nearest neighbors by features.

    python data/similar_images.py --features features.npz --output similar.html

Features come from extract_feature.py; images are found by the names in it.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from data.common import command, html_report
from data.common.errors import UserError
from data.common.files import atomic_write
from data.common.images import ImageError, decode
from data.outputs.feature_files import Table, read_table

THUMBNAIL_SIDE = 144
ROWS_AT_ONCE = 1 << 14
"""Rows of the table that are compared with the queries at once."""


@command.one_line_errors()
def main(argv: list[str] | None = None) -> int:
    options = _parse(argv)
    table = read_table(options.features)
    queries = read_table(options.queries) if options.queries else table
    rows = _query_rows(queries, options)
    # One neighbor more: a query from the table finds itself first, and is left out.
    found, cosines = nearest(table, queries.values[rows], options.neighbors + 1)
    sections = [
        _section(table, queries.names[row], *pair, options.neighbors)
        for row, *pair in zip(rows, found, cosines, strict=True)
    ]
    page = html_report.page("Similar images", sections)
    atomic_write(options.output, page.encode("utf-8", "replace"))
    print(f"{len(sections)} images with their neighbors among {len(table.names)}: ", end="")
    print(options.output)
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--features", required=True, help="what is searched: .npz, .npy, .txt or .parquet")
    add("--queries", help="features to look for; without it, images of --features")
    add("--names", nargs="*", help="images to look for; default: some, spread evenly")
    add("--count", type=int, default=20, help="how many, without --names (default 20)")
    add("--neighbors", "--neighbours", type=int, default=7, help="shown for each image (default 7)")
    add("--output", default="similar.html", help="page to write (default similar.html)")
    return parser.parse_args(argv)


def _query_rows(table: Table, options: argparse.Namespace) -> list[int]:
    """Rows of the table of queries; an image that was unreadable is not looked for."""
    names = table.names
    if not options.names:
        step = max(1, len(names) // max(1, options.count))
        spread = range(0, len(names), step)[: options.count]
        return [row for row in spread if np.isfinite(table.values[row]).all()]
    row_of = {name: row for row, name in reversed(list(enumerate(names)))}
    unknown = [name for name in options.names if name not in row_of]
    if unknown:
        raise UserError(f"no features of {unknown[0]} among {len(names)}")
    return [row_of[name] for name in options.names]


def unit_rows(values: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, float32 [N, D]; a row of zeros becomes NaN."""
    values = np.asarray(values, np.float32)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(lengths > 0, lengths, np.nan)


def nearest(table: Table, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` rows of the table with the largest cosine to each query, nearest first.

    Rows of NaN (unreadable images) come last; of equals, the earlier row comes first. The table is
    read once, ROWS_AT_ONCE rows at a time.

    Args:
      queries: float [Q, D].

    Returns:
      rows int64 [Q, K] and cosines float32 [Q, K]; K is `count`, or all rows if they are fewer.

    Raises:
      UserError: the queries have another number of features than the table.
    """
    if queries.shape[1] != table.values.shape[1]:
        raise UserError(
            f"queries have {queries.shape[1]} numbers, the features {table.values.shape[1]}"
        )
    queries = unit_rows(queries)
    rows = np.zeros((len(queries), 0), np.int64)
    cosines = np.zeros((len(queries), 0), np.float32)
    for start in range(0, len(table.values), ROWS_AT_ONCE):
        block = unit_rows(table.values[start : start + ROWS_AT_ONCE])
        found = np.nan_to_num(queries @ block.T, nan=-np.inf)
        numbers = np.broadcast_to(np.arange(start, start + len(block)), found.shape)
        rows, cosines = np.hstack([rows, numbers]), np.hstack([cosines, found])
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        rows, cosines = (np.take_along_axis(x, best, 1) for x in (rows, cosines))
    return rows, cosines


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
    """An image as a data address; empty where it cannot be read (a record, a moved file)."""
    try:
        image = decode(Path(name).read_bytes())
    except (ImageError, OSError):
        return ""
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return html_report.image_address(image)


if __name__ == "__main__":
    command.run(main)
