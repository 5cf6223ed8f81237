"""How well record orders mix: classes in consecutive samples, compared with random draws.

    python benchmarks/mixing.py [--records 1281167] [--classes 1000] [--samples 32 256 2560 25600]

Tests the worst case: records sorted by class. For each number of consecutive samples in an epoch,
the table has the mean number of distinct classes divided by that of independent draws: 1 is as good
as random, near 0 means one class. Blocks have 35 records (2 MiB of 60 kB images). The last rows are
for a reader without random access: files in random order, and a shuffle buffer.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from benchmarks import harness
from data.input.sampler import BlockSampler, RandomSampler, block_count

FILE_RECORDS, BLOCK_RECORDS, STRETCHES = 1024, 35, 200
WINDOW_FILES, WINDOW_RECORDS = 1500, 2048  # the defaults of the flags


def orders(records: int) -> dict[str, Callable[[], np.ndarray]]:
    """Name -> a function that returns an epoch's records in order."""
    counts = [FILE_RECORDS] * (records // FILE_RECORDS) + [records % FILE_RECORDS]

    def sampled(sampler: BlockSampler | RandomSampler) -> Callable[[], np.ndarray]:
        return lambda: sampler.records(0, records)

    found = {"single records": sampled(RandomSampler(counts, 1, WINDOW_FILES, WINDOW_RECORDS))}
    for lanes in (64, 256, 1024):
        blocks = block_count(records, -(-records // BLOCK_RECORDS), lanes)
        found[f"{lanes} blocks"] = sampled(BlockSampler(records, 1, blocks, lanes))
    for buffer in (2048, 20480):
        found[f"buffer of {buffer:,}"] = lambda size=buffer: buffered(records, size)
    return found


def buffered(records: int, size: int) -> np.ndarray:
    """Files in random order, read one after another through a shuffle buffer of `size` records."""
    draw = np.random.RandomState(1)
    files = draw.permutation(-(-records // FILE_RECORDS))
    stream = np.concatenate(
        [np.arange(f * FILE_RECORDS, min(records, (f + 1) * FILE_RECORDS)) for f in files]
    )
    return np.fromiter(_drawn(stream.tolist(), size, draw), np.int64, records)


def _drawn(stream: list[int], size: int, draw: np.random.RandomState) -> Iterator[int]:
    buffer = stream[:size]
    places = draw.randint(len(buffer), size=len(stream)).tolist()
    for record, place in zip(stream[size:], places, strict=False):
        yield buffer[place]
        buffer[place] = record
    draw.shuffle(buffer)
    yield from buffer


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for name, order in orders(args.records).items():
        classes = order() * args.classes // args.records
        row: dict[str, Any] = {"what": name}
        for samples in args.samples:
            starts = np.linspace(0, args.records - samples, STRETCHES).astype(int)
            seen = [len(np.unique(classes[start : start + samples])) for start in starts]
            by_chance = args.classes * (1 - (1 - 1 / args.classes) ** samples)
            row[f"{samples:,} samples"] = float(np.mean(seen)) / by_chance
        rows.append(row)
    return rows


if __name__ == "__main__":
    harness.main(
        *(measure, __doc__),
        records=(1281167, 20000),
        classes=(1000, 100),
        samples=([32, 256, 2560, 25600], [32, 256]),
    )
