"""Results of the evaluators and the metrics derived from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.common.errors import UserError
from models.metrics import definitions
from models.metrics.definitions import RankedPositives, ratio

# What tells most, of several labels or one.
HEADLINES = ("map_macro", "map_micro", "top_1", "top_5")
SET_METRICS = ("precision", "recall", "f1")
# Averaged over all images, as scikit-learn does.
RANKING_METRICS = ("coverage", "ranking_loss", "label_ranking_ap")


@dataclass(frozen=True)
class MultiLabelMetricOptions:
    """What is measured.

    Attributes:
      top: the k of precision, recall and F1 at k.
      threshold: score from which a class is predicted, one for all or float [C].
      positive_threshold: confidence from which a label is positive; a lower one is negative.
      supported: bool [C], the classes that means are over, less those without a positive;
        None: all.
      parents: int [C], the parent of each class, -1 for a root; None: no hierarchy.
      scratch_dir: folder of the temporary file of scores (4 x images x classes bytes).
    """

    top: tuple[int, ...] = (5, 10)
    threshold: float | np.ndarray = 0.5
    positive_threshold: float = 0.5
    supported: np.ndarray | None = None
    parents: np.ndarray | None = None
    scratch_dir: str | Path | None = None

    def thresholds(self, class_num: int) -> np.ndarray:
        """float32 [C]. Raises UserError where an array has not one entry per class."""
        for name in ("threshold", "supported", "parents"):
            value = getattr(self, name)
            if value is not None and np.shape(value) not in ((), (class_num,)):
                raise UserError(f"{name} has {np.size(value)} entries for {class_num} classes")
        return np.broadcast_to(np.asarray(self.threshold, np.float32), (class_num,))

    def image_metrics(self) -> tuple[str, ...]:
        """Names of the metrics that are means over images."""
        cuts = [f"at_{k}" for k in self.top] + ["at_threshold"]
        sets = tuple(f"{name}_{cut}" for cut in cuts for name in SET_METRICS)
        return (*RANKING_METRICS, "one_error", *sets)


class ClassCounts(NamedTuple):
    """int64 [C] each, over the images where the class is known."""

    known: np.ndarray
    positives: np.ndarray
    predicted: np.ndarray
    true: np.ndarray  # predicted and positive

    @classmethod
    def zeros(cls, class_num: int) -> ClassCounts:
        """Counts of no image."""
        return cls(*np.zeros((len(cls._fields), class_num), np.int64))


@dataclass(frozen=True)
class MultiLabelMetrics:
    """The counts of a multi-label evaluation; `summary` and the tables derive from them.

    Attributes:
      ranked: the positives of every class, ranked among the known images of it.
      micro: the positives of all supported classes, ranked among all their known entries.
      closures: k -> sizes of the common, predicted and positive sets closed by ancestors.
    """

    options: MultiLabelMetricOptions
    images: int
    images_with_positive: int
    counts: ClassCounts
    supported: np.ndarray
    sums: dict[str, float]
    ranked: RankedPositives
    micro: RankedPositives
    closures: dict[int, np.ndarray]

    def average_precisions(self) -> np.ndarray:
        """float64 [C]: AP of each class, NaN for one without a positive."""
        return definitions.average_precisions(self.ranked, len(self.supported))

    def fitted_thresholds(self) -> np.ndarray:
        """float32 [C]: per class the score threshold of the best F1, to apply to other data."""
        default = self.options.thresholds(len(self.supported))
        return definitions.best_thresholds(self.ranked, len(self.supported), default)

    def curve(self, class_index: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(recall, precision) at each positive's score of a class, or micro over all; [P] each."""
        ranked = self.micro
        if class_index is not None:
            bounds = np.searchsorted(self.ranked.group, [class_index, class_index + 1])
            ranked = RankedPositives(*(array[slice(*bounds)] for array in self.ranked))
        return ranked.true / max(len(ranked.true), 1), ranked.true / ranked.at_least

    def class_table(self) -> dict[str, np.ndarray]:
        """Columns [C]: AP, precision, recall and F1 at the threshold, and counts."""
        counts = self.counts
        return {
            "average_precision": self.average_precisions(),
            "precision": ratio(counts.true, counts.predicted),
            "recall": ratio(counts.true, counts.positives),
            "f1": ratio(2 * counts.true, counts.predicted + counts.positives),
            "threshold": self.options.thresholds(len(self.supported)),
            **counts._asdict(),
            "supported": self.supported,
        }

    def summary(self) -> dict[str, float]:
        """Every number, by name; means over classes are over the supported ones."""
        means = {
            name: total / (self.images if name in RANKING_METRICS else self.images_with_positive)
            for name, total in self.sums.items()
        }
        return {
            "images": self.images,
            "images_with_positive": self.images_with_positive,
            "supported_classes": int(self.supported.sum()),
            **self._mean_average_precisions(),
            **means,
            **self._threshold_metrics(),
            **self._hierarchical_metrics(),
        }

    def _mean_average_precisions(self) -> dict[str, float]:
        precisions = self.average_precisions()[self.supported]
        micro = definitions.average_precisions(self.micro, 1)[0]
        weights = self.counts.positives[self.supported]
        return {
            "map_macro": float(precisions.mean()),
            "map_micro": float(micro),
            "map_weighted": float(np.average(precisions, weights=weights)),
        }

    def _threshold_metrics(self) -> dict[str, float]:
        table = self.class_table()
        macro = {f"macro_{name}": float(table[name][self.supported].mean()) for name in SET_METRICS}
        known, positives, predicted, true = (count[self.supported].sum() for count in self.counts)
        return {
            **macro,
            "micro_precision": float(ratio(true, predicted)),
            "micro_recall": float(ratio(true, positives)),
            "micro_f1": float(ratio(2 * true, predicted + positives)),
            "hamming": float(ratio(predicted + positives - 2 * true, known)),
        }

    def _hierarchical_metrics(self) -> dict[str, float]:
        values = {}
        for k, (common, predicted, positive) in self.closures.items():
            values[f"hierarchical_precision_at_{k}"] = float(ratio(common, predicted))
            values[f"hierarchical_recall_at_{k}"] = float(ratio(common, positive))
            values[f"hierarchical_f1_at_{k}"] = float(ratio(2 * common, predicted + positive))
        return values


@dataclass(frozen=True)
class SingleLabelMetrics:
    """The counts of a single-label evaluation.

    Attributes:
      images: int64 [C], images of each class.
      correct: int64 [len(top), C], those with their label among the best k.
      confusions: int64 [N, 3]: label, prediction, images; wrong predictions only.
    """

    top: tuple[int, ...]
    images: np.ndarray
    correct: np.ndarray
    loss_sum: float
    confusions: np.ndarray

    def summary(self) -> dict[str, float]:
        """Every number, by name; `_low` and `_high` bound the 95 % Wilson interval."""
        total = int(self.images.sum())
        values: dict[str, float] = {"images": total, "loss": self.loss_sum / total}
        for k, correct in zip(self.top, self.correct.sum(axis=1), strict=True):
            low, high = definitions.wilson_interval(int(correct), total)
            values |= {f"top_{k}": correct / total, f"top_{k}_low": low, f"top_{k}_high": high}
        of_classes = ratio(self.correct[0], self.images)[self.images > 0]
        return {**values, "mean_class_accuracy": float(of_classes.mean())}

    def class_table(self) -> dict[str, np.ndarray]:
        """Columns [C]: images and top-k accuracy, NaN for a class without an image."""
        shares = {
            f"top_{k}": ratio(correct, self.images, empty=np.nan)
            for k, correct in zip(self.top, self.correct, strict=True)
        }
        return {"images": self.images, **shares}

    def top_confusions(self, count: int) -> np.ndarray:
        """int64 [<= count, 3]: the most frequent (label, wrong prediction, images)."""
        order = np.lexsort((*self.confusions.T[:2][::-1], -self.confusions[:, 2]))
        return self.confusions[order[:count]]
