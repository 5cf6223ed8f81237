"""Sums that do not depend on the order of terms or the number of workers.

Sums of floats depend on their order. Here every addend is rounded to a multiple of 2^-30 and
added as an integer, so shards add up to exactly what one process counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.distributed.base import Distributed

# 2^-30 is an error below 1e-9 in a mean; int64 then holds sums up to 8.6e9.
FIXED_POINT = 2**30


class ExactSums:
    """Sums of named per-image values, and how many images they are over."""

    def __init__(self) -> None:
        self._sums: dict[str, int] = {}

    def add(self, values: Mapping[str, np.ndarray]) -> None:
        """Adds float64 [B] values, name by name."""
        for name, array in values.items():
            fixed = np.rint(np.asarray(array, np.float64) * FIXED_POINT).astype(np.int64)
            self._sums[name] = self._sums.get(name, 0) + int(fixed.sum())

    def totals(self, names: tuple[str, ...], workers: Distributed) -> dict[str, float]:
        """Sums over all workers, for `names`, the same ones on every worker."""
        own = np.array([self._sums.get(name, 0) for name in names], np.int64)
        return dict(zip(names, (workers.sum(own) / FIXED_POINT).tolist(), strict=True))


def gather(array: np.ndarray, workers: Distributed) -> np.ndarray:
    """int64 arrays [N_r] of all workers, joined in rank order; each worker gets the same."""
    lengths = np.zeros(workers.size, np.int64)
    lengths[workers.rank] = len(array)
    lengths = workers.sum(lengths)
    start = int(lengths[: workers.rank].sum())
    joined = np.zeros(int(lengths.sum()), np.int64)
    joined[start : start + len(array)] = array
    return workers.sum(joined) if len(joined) else joined


def gather_rows(rows: Sequence[Sequence[Any]], workers: Distributed) -> list[tuple]:
    """Rows of numbers and strings of all workers, in ascending order; each worker gets the same."""
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    joined = gather(np.frombuffer(text, np.uint8).astype(np.int64), workers)
    return sorted(tuple(json.loads(line)) for line in bytes(joined.astype(np.uint8)).splitlines())
