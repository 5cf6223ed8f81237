"""From scores to probabilities: takes back the weight of positive labels; applies a temperature.

In the loss of `sigmoid_loss` a positive label counts w = `positive_weight` times. Where a class
holds with probability p, its expected loss `-w p log(q) - (1 - p) log(1 - q)` is least at

    q = w p / (w p + 1 - p),      so      logit(p) = logit(q) - log(w)

and a score of 0.5 does not mean "as likely as not": w / (w + 1) does, 0.92 for w = 12. Temperature
scaling (Guo et al., ICML 2017, arXiv 1706.04599, section 4.2) divides what is left by one number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

ACTIVATIONS = {"softmax": tf.nn.softmax, "sigmoid": tf.nn.sigmoid}

# In float32, a score of 1 stands for all logits from 17.3 on.
_LARGEST = 1 - 2.0**-25
_ROUNDING = 1e-6  # more than that of logits


@dataclass(frozen=True)
class Calibration:
    """Logits x become (x - shift) / temperature; by default they stay.

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
        """Whether anything is changed; otherwise scores stay as they are to the last bit."""
        return (self.shift, self.temperature) != (0.0, 1.0)

    def logits(self, logits: tf.Tensor | np.ndarray) -> tf.Tensor | np.ndarray:
        """The logits of the probabilities."""
        return (logits - self.shift) / self.temperature if self.changes else logits

    def activate(self, logits: tf.Tensor) -> tf.Tensor:
        """Probabilities [B, C] of the network's logits [B, C]."""
        return ACTIVATIONS[self.score](self.logits(logits))

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """float64 probabilities of scores that the network gives, of the same shape.

        Of softmax, the last axis has all classes.
        """
        scores = np.asarray(scores, np.float64)
        if self.score == "sigmoid":
            return _sigmoid(self.logits(logit(scores)))
        with np.errstate(divide="ignore"):
            logits = self.logits(np.log(scores))
        exponentials = np.exp(logits - logits.max(-1, keepdims=True))
        return exponentials / exponentials.sum(-1, keepdims=True)

    def thresholds(self, scores: np.ndarray) -> np.ndarray:
        """float32 probabilities from which a class is predicted, as from these scores [C].

        They are a little lower, so that rounding loses no image whose score is the threshold.
        """
        if not self.changes:
            return scores
        x = self.logits(logit(_lower(scores)))
        return _lower(_sigmoid(x - _ROUNDING * (1 + np.abs(x))).astype(np.float32))


def logit(scores: np.ndarray) -> np.ndarray:
    """float64 logits of sigmoid scores in float32; -inf of 0, and 17.3 of 1."""
    scores = np.minimum(np.asarray(scores, np.float64), _LARGEST)
    with np.errstate(divide="ignore"):
        return np.log(scores) - np.log1p(-scores)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-logits))


def _lower(scores: np.ndarray) -> np.ndarray:
    """float32 scores that are lower by more than the rounding of a sigmoid."""
    return np.maximum(scores - 4 * np.spacing(scores), 0)
