"""One table of what the other benchmarks wrote as JSON: ours, peers, limits, ratios, memory.

    python benchmarks/summary.py [FOLDER] [--json FILE]

Parts measure different things; a column here takes what each of them has of its kind. A part that
was not run again stands as it was measured last.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.measuring import report

# Column -> what the parts call it. A row shows the first that it has, with its name as the unit.
COLUMNS = {
    "figure": (
        *("slope", "images/s", "images_per_second", "convert, images/s", "ms", "ms an image"),
        *("seconds", "value", "top-1 mean", "note"),
    ),
    "of the limit": (
        *("of the peak", "of decoding", "of the limit", "of the decode limit", "of ideal"),
        "efficiency",
    ),
    "next to ours": ("ours, times", "of the network", "x plain"),
    "memory": ("memory GiB", "peak memory MiB", "MiB", "tensors at the peak"),
}
NAMES = ("limit", "what", "job", "program")
SETTINGS = (
    *("batch", "classes", "class_num", "image_size", "dtype", "threads", "area from", "resize"),
    *("processes", "images", "grows with", "workers", "setting", "start"),
)


def rows_of(part: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A part's rows in the columns of the table."""
    table = []
    for row in rows:
        name = [str(row[key]) for key in NAMES if key in row]
        name += [f"{key} {row[key]}" for key in SETTINGS if key in row]
        found = {"part": part, "what": ", ".join(name)}
        for column, keys in COLUMNS.items():
            key = next((key for key in keys if key in row), None)
            found[column] = "" if key is None else _text(row[key], row.get("unit", key))
        table.append(found)
    return table


def _text(value: Any, unit: str) -> str:
    number = f"{value:.3g}" if isinstance(value, float) else str(value)
    return f"{number} {unit}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", default="out/benchmarks", type=Path)
    parser.add_argument("--json", help="file for the rows as JSON")
    args = parser.parse_args(argv)
    table = []
    for path in sorted(args.folder.glob("*.json")):
        rows = json.loads(path.read_text(encoding="utf-8"))
        rows = rows["rows"] if isinstance(rows, dict) else rows
        table += rows_of(path.stem, rows)
    report("All parts", table, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
