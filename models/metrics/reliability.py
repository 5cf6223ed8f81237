"""How often predictions made with a given confidence are correct, in bins of the confidence.

Expected calibration error, from Naeini et al., AAAI 2015; bins and estimator as in Guo et al., ICML
2017 (arXiv 1706.04599, section 2): M = 15 bins of equal width, ((m - 1) / M, m / M].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from models.metrics.accumulators import FIXED_POINT

BINS = 15


class Reliability(NamedTuple):
    """Predictions by their confidence, arrays of BINS each."""

    predictions: np.ndarray  # int64
    true: np.ndarray  # int64: how many of them are correct
    confidence: np.ndarray  # float64: the sum of their confidences

    @classmethod
    def from_table(cls, table: np.ndarray) -> Reliability:
        """From a sum of tables that `table_of` makes."""
        return cls(table[0], table[1], table[2] / FIXED_POINT)

    @property
    def expected_error(self) -> float:
        """Mean over predictions of |fraction correct - mean confidence| of their bin."""
        return float(np.abs(self.true - self.confidence).sum() / self.predictions.sum())


def table_of(confidence: np.ndarray, true: np.ndarray | None = None) -> np.ndarray:
    """int64 [3, BINS]: predictions, correct ones, and confidences as multiples of 2^-30.

    Integers have the same sum in any order. Up to 2^23 predictions at once are counted exactly.

    Args:
      confidence: [N] in [0, 1].
      true: bool [N], which are correct; None: none of them.
    """
    confidence = np.asarray(confidence, np.float64)
    bins = np.clip(np.ceil(confidence * BINS) - 1, 0, BINS - 1).astype(np.intp)
    table = np.zeros((3, BINS), np.int64)
    table[0] = np.bincount(bins, minlength=BINS)
    if true is not None:
        table[1] = np.bincount(bins[true], minlength=BINS)
    table[2] = np.bincount(bins, weights=np.rint(confidence * FIXED_POINT), minlength=BINS)
    return table
