"""Near-duplicates among many feature vectors: time, memory, and how many planted ones are found.

    python benchmarks/neighbors.py [--rows 300000] [--size 2048] [--planted 3000] [--json FILE]

Features are random and positive, like pooled ones (cosines of about 0.64), in a memory-mapped .npy
file; planted rows are noisy copies of earlier ones, at cosines of 0.96 to 0.999. Measures
data/deduplicate.py with a threshold of 0.95, from list to report.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from benchmarks import harness
from benchmarks.lists import sampled

ROWS_AT_ONCE = 10_000
NOISE = 0.05, 0.28  # for features of scale 1: cosines from 0.999 down to 0.96


def make_features(folder: Path, rows: int, size: int, planted: int) -> dict[str, str]:
    """Writes features, their names and a list; returns the planted images with their originals.

    The second half of the rows has copies of some in the first half.
    """
    rng = np.random.default_rng(0)
    values = np.lib.format.open_memmap(folder / "f.npy", "w+", np.float32, (rows, size))
    for start in range(0, rows, ROWS_AT_ONCE):
        block = values[start : start + ROWS_AT_ONCE]
        np.abs(rng.standard_normal(block.shape, np.float32), out=block)
    half = rows // 2
    copies = np.sort(half + rng.choice(half, planted, replace=False))
    originals = rng.choice(half, planted, replace=False)
    for start in range(0, planted, ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        noise = rng.uniform(*NOISE, (len(copies[part]), 1)).astype(np.float32)
        noise = noise * rng.standard_normal((len(noise), size), np.float32)
        values[copies[part]] = values[originals[part]] + noise
    values.flush()
    for name, ending in (("f.npy.names.tsv", "\n"), ("list.txt", "\t0:1\n")):
        with open(folder / name, "w", encoding="ascii") as file:
            file.writelines(f"{row}.jpg{ending}" for row in range(rows))
    pairs = zip(copies.tolist(), originals.tolist(), strict=True)
    return {f"{copy}.jpg": f"{original}.jpg" for copy, original in pairs}


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(dir=args.folder or None) as name:
        folder = Path(name)
        planted = make_features(folder, args.rows, args.size, args.planted)
        flags = "--list", "list.txt", "--features", "f.npy", "--output", "out", "--pairs", "0"
        cost, samples = sampled(harness.from_root("data/deduplicate.py", *flags), folder)
        lines = (folder / "out" / "duplicates.tsv").read_text().splitlines()[1:]
        found = {fields[1]: fields[3] for fields in (line.split("\t") for line in lines)}
        right = sum(found.get(copy) == original for copy, original in planted.items())
        row = {"what": f"{args.rows:,} x {args.size:,}", **cost._asdict(), "MiB": max(samples)}
        return [{**row, "planted": len(planted), "found": right, "others": len(found) - right}]


if __name__ == "__main__":
    harness.main(
        *(measure, __doc__),
        rows=(300_000, 2_000),
        size=(2_048, 256),
        planted=(3_000, 50),
        folder=("", ""),
    )
