"""Class-balanced sampling: records of rare classes come more often (off by default; ours).

The weight of a record is that of its rarest positive class, `1 / images ** strength`: strength 0
reads as the records are, 1 shows every class about equally often (Gupta et al., LVIS, section 4,
oversample by the rarest class in the same way). Draws are with replacement.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from data.tfrecords.record_source import count_classes

DRAWN_TOGETHER = 4096
BLOCKS_KEPT = 4
CLASSES_LISTED = 100


def record_weights(labels: Sequence[np.ndarray], class_num: int, strength: float) -> np.ndarray:
    """float64 [records]: how much more often than others a record is to be drawn.

    Args:
        labels: the positive classes of each record.
    """
    counts = count_classes(labels, class_num)
    of_class = np.maximum(counts, 1) ** -float(strength)
    least = of_class.min()
    return np.array([of_class[classes].max() if len(classes) else least for classes in labels])


def describe_counts(counts: np.ndarray) -> str:
    """How many records are positive for each class [C], in one line for the log."""
    class_num = len(counts)
    if class_num <= CLASSES_LISTED:
        each = ", ".join(f"{c}: {count}" for c, count in enumerate(counts))
    else:
        least, middle, most = np.percentile(counts, [0, 50, 100]).astype(int)
        each = f"from {least} to {most}, median {middle}"
    empty = np.flatnonzero(counts == 0)
    none = f"; {len(empty)} without any, the first {empty[0]}" if len(empty) else ""
    return f"positive records of {class_num} classes: {each}{none}"


class BalancedOrder:
    """Maps positions to record ids drawn by weight; a function of (seed, position) alone.

    The counterpart of `order.RecordOrder`, without epochs.
    """

    def __init__(self, weights: np.ndarray, seed: int):
        self._cumulated = np.cumsum(weights) / np.sum(weights)
        self._seed = seed & 0xFFFFFFFF
        self._block = functools.lru_cache(BLOCKS_KEPT)(self._draw)

    def records(self, start: int, count: int) -> np.ndarray:
        """The record ids, int64 [count], at positions start, start + 1, ..."""
        first, last = start // DRAWN_TOGETHER, (start + count - 1) // DRAWN_TOGETHER
        blocks = [self._block(block) for block in range(first, last + 1)]
        begin = start - first * DRAWN_TOGETHER
        return np.concatenate(blocks)[begin : begin + count]

    def _draw(self, block: int) -> np.ndarray:
        # RandomState never changes what it draws from a seed, so a resume draws the same.
        draws = np.random.RandomState([self._seed, block]).random_sample(DRAWN_TOGETHER)
        found = np.searchsorted(self._cumulated, draws, "right")
        return np.minimum(found, len(self._cumulated) - 1)
