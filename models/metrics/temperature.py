"""Fits the temperature of a calibration, with the same result on any number of workers.

It is the one of TEMPERATURES with the lowest negative log-likelihood. Adjacent ones differ by 2 %,
which changes the likelihood by less than its sampling error. Workers sum integers: counts of logits
in narrow bins, or the losses of images at each temperature as multiples of 2^-30.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from data.common.errors import UserError
from models.calibration import Calibration, logit
from models.distributed.base import Distributed
from models.metrics.accumulators import FIXED_POINT, TINY
from models.metrics.reliability import BINS, Reliability, table_of

TEMPERATURES = 2.0 ** (np.arange(-128, 129) / 32)
_LOWEST, _HIGHEST, _BINS_PER_UNIT = -32, 18, 64
_LOGITS = _LOWEST + (np.arange((_HIGHEST - _LOWEST) * _BINS_PER_UNIT) + 0.5) / _BINS_PER_UNIT


class Fit(NamedTuple):
    """What was fitted on a split.

    Attributes:
      temperature: of a `Calibration`.
      errors: expected calibration error on this split for each value of --probabilities.
      thresholds: float32 [C], the score with the best F1 for each class; None for a single label.
    """

    temperature: float
    errors: dict[str, float]
    thresholds: np.ndarray | None = None


def logit_histogram(scores: np.ndarray) -> np.ndarray:
    """int64 [L]: how many of these sigmoid scores, float32 of any shape, have each logit."""
    places = np.floor((logit(scores.ravel()) - _LOWEST) * _BINS_PER_UNIT)
    return np.bincount(np.clip(places, 0, len(_LOGITS) - 1).astype(np.intp), minlength=len(_LOGITS))


def sigmoid_temperature(known: np.ndarray, positive: np.ndarray, shift: float) -> float:
    """The best temperature, from the logit histograms [L] of known and of positive labels.

    Raises UserError as in `best_temperature`.
    """
    losses = []
    for temperature in TEMPERATURES:
        x = Calibration("sigmoid", shift, temperature).logits(_LOGITS)
        losses.append(positive @ np.logaddexp(0, -x) + (known - positive) @ np.logaddexp(0, x))
    return best_temperature(np.array(losses))


def best_temperature(losses: np.ndarray) -> float:
    """The temperature with the lowest of the `losses`, one for each of TEMPERATURES.

    Raises UserError: it is the first or the last of TEMPERATURES, or all losses are equal.
    """
    best = int(np.argmin(losses))
    if best in (0, len(TEMPERATURES) - 1):
        raise UserError(
            "--calibrate: no temperature can be fitted, because the scores separate these labels"
            " perfectly, or say nothing about them: use more images"
        )
    return float(TEMPERATURES[best])


class SoftmaxTemperatures:
    """The losses and the reliability of single-label images, at every temperature."""

    def __init__(self) -> None:
        self._losses = np.zeros(len(TEMPERATURES), np.int64)
        self._tables = np.zeros((len(TEMPERATURES), 3, BINS), np.int64)

    def update(self, scores: np.ndarray, labels: np.ndarray) -> None:
        """Adds a batch: probabilities float32 [B, C], and the label of each image, int [B]."""
        rows, right = np.arange(len(scores)), scores.argmax(axis=1) == labels
        logits = np.log(np.maximum(scores, TINY), dtype=np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        for number, temperature in enumerate(TEMPERATURES):
            scaled = logits / temperature
            normalizer = np.log(np.exp(scaled).sum(axis=1))
            losses = np.rint((normalizer - scaled[rows, labels]) * FIXED_POINT)
            self._losses[number] += losses.astype(np.int64).sum()
            self._tables[number] += table_of(np.exp(-normalizer), right)

    def fit(self, workers: Distributed) -> tuple[float, float]:
        """The best temperature for the images of all workers, and the calibration error with it.

        Raises UserError as in `best_temperature`.
        """
        temperature = best_temperature(workers.sum(self._losses))
        (table,) = workers.sum(self._tables)[temperature == TEMPERATURES]
        return temperature, Reliability.from_table(table).expected_error
