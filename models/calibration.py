"""Turns scores into probabilities: undoes the weight of positive labels, applies a temperature.

In `sigmoid_loss` a positive label counts w = `positive_weight` times. For a class that is present
with probability p, the expected loss `-w p log(q) - (1 - p) log(1 - q)` is smallest at

    q = w p / (w p + 1 - p),      so      logit(p) = logit(q) - log(w)

and "as likely as not" is not a score of 0.5 but of w / (w + 1), 0.92 for w = 12. Temperature
scaling (Guo et al., ICML 2017, arXiv 1706.04599, section 4.2) then divides logits by one number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

ACTIVATIONS = {"softmax": tf.nn.softmax, "sigmoid": tf.nn.sigmoid}

# In float32, a score of 1 stands for all logits of 17.3 and above.
_LARGEST = 1 - 2.0**-25
_ROUNDING = 1e-6  # above the rounding error of logits


@dataclass(frozen=True)
class Calibration:
    """Maps logits x to (x - shift) / temperature; by default they are unchanged.

    Attributes:
      score: how scores are computed from logits, a key of ACTIVATIONS.
      shift: logarithm of the weight of positive labels; 0 for softmax.
      temperature: above 0.
    """

    score: str
    shift: float = 0.0
    temperature: float = 1.0

    @property
    def changes(self) -> bool:
        """Whether it changes anything; otherwise scores stay the same to the last bit."""
        return (self.shift, self.temperature) != (0.0, 1.0)

    def logits(self, logits: tf.Tensor | np.ndarray) -> tf.Tensor | np.ndarray:
        """The calibrated logits."""
        return (logits - self.shift) / self.temperature if self.changes else logits

    def activate(self, logits: tf.Tensor) -> tf.Tensor:
        """Probabilities [B, C] of the network's logits [B, C]."""
        return ACTIVATIONS[self.score](self.logits(logits))

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """float64 probabilities from the network's raw scores, in the same shape.

        For softmax, the last axis must hold all classes.
        """
        scores = np.asarray(scores, np.float64)
        if self.score == "sigmoid":
            return _sigmoid(self.logits(logit(scores)))
        with np.errstate(divide="ignore"):
            logits = self.logits(np.log(scores))
        exponentials = np.exp(logits - logits.max(-1, keepdims=True))
        return exponentials / exponentials.sum(-1, keepdims=True)

    def thresholds(self, scores: np.ndarray) -> np.ndarray:
        """The probability thresholds, float32 [C], that correspond to these score thresholds [C].

        They are a little lower, so that an image whose score equals the threshold is not lost to
        rounding.
        """
        if not self.changes:
            return scores
        x = self.logits(logit(_lower(scores)))
        return _lower(_sigmoid(x - _ROUNDING * (1 + np.abs(x))).astype(np.float32))


def logit(scores: np.ndarray) -> np.ndarray:
    """float64 logits of float32 sigmoid scores; -inf for 0, and 17.3 for 1."""
    scores = np.minimum(np.asarray(scores, np.float64), _LARGEST)
    with np.errstate(divide="ignore"):
        return np.log(scores) - np.log1p(-scores)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-logits))


def _lower(scores: np.ndarray) -> np.ndarray:
    """float32 scores lowered by more than the rounding error of a sigmoid."""
    return np.maximum(scores - 4 * np.spacing(scores), 0)
