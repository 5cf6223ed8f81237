"""Compares an export's outputs with the checkpoint's."""

from typing import NamedTuple

import numpy as np

from data.common.errors import UserError


class Check(NamedTuple):
    """A comparison: `difference` is the largest one, relative to the largest reference value."""

    what: str
    difference: float
    tolerance: float


def compare(what: str, found: np.ndarray, expected: np.ndarray, tolerance: float) -> Check:
    """The comparison of an export's output with the checkpoint's, of the same shape.

    Raises UserError when they differ by more than `tolerance`, or hold what is no number.
    """
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        raise UserError(f"{what}: shape {found.shape} instead of {expected.shape}")
    difference = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))
    if not difference <= tolerance:
        raise UserError(
            f"{what} differs from the checkpoint by {difference:.2e}, more than {tolerance:g}"
        )
    return Check(what, difference, tolerance)
