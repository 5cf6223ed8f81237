"""Positive records per class of a shard, stored in the manifest as `3:17 8:2`.

With it a run knows the classes of its data without reading them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

_TEXT = re.compile(r"(\d{1,9}:\d{1,15}( \d{1,9}:\d{1,15})*)?", re.ASCII)


def written(counts: Mapping[int, int]) -> str:
    return " ".join(f"{label}:{count}" for label, count in sorted(counts.items()))


def is_label_counts(value: Any) -> bool:
    """label counts such as '3:17 8:2'"""
    return value is None or (isinstance(value, str) and _TEXT.fullmatch(value) is not None)


def added(texts: Iterable[str]) -> np.ndarray:
    """int64 [highest class + 1]: the sums of the counts of many shards."""
    total = np.zeros(0, np.int64)
    for text in texts:
        labels, counts = np.array(text.replace(":", " ").split(), np.int64).reshape(-1, 2).T
        total = np.pad(total, (0, max(0, labels.max(initial=-1) + 1 - len(total))))
        np.add.at(total, labels, counts)
    return total
