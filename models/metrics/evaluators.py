"""Evaluators: `update` adds the predictions of a batch, `result` returns the metrics of all.

They sum only integers, so images sharded over workers give exactly the same result. The metrics
are in `models.metrics.definitions`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.common.errors import UserError
from models.calibration import Calibration
from models.distributed.base import Distributed, SingleProcess
from models.metrics import counts, definitions
from models.metrics.accumulators import TINY, ExactSums, ScoreStore, add_up, count_at_least, gather
from models.metrics.counts import (
    ClassCounts,
    ImageRankings,
    MultiLabelCounts,
    RankedPositives,
    SingleLabelCounts,
    UndefinedError,
)
from models.metrics.labeled import LabeledScores, labeled
from models.metrics.reliability import BINS, Reliability, table_of
from models.metrics.temperature import (
    Fit,
    SoftmaxTemperatures,
    logit_histogram,
    sigmoid_temperature,
)


@dataclass(frozen=True)
class MultiLabelOptions:
    """How scores and labels are measured.

    Attributes:
      top: the values of k for precision, recall and F1 at k.
      threshold: score from which a class is predicted, for all classes or float [C].
      positive_threshold: confidence from which a label is positive; below it, it is negative.
      supported: bool [C], the classes in the means, except those without a positive; None: all.
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
        """float32 [C]. Raises UserError if an array does not have one entry per class."""
        for name in ("threshold", "supported", "parents"):
            value = getattr(self, name)
            if value is not None and np.shape(value) not in ((), (class_num,)):
                raise UserError(f"{name} has {np.size(value)} entries for {class_num} classes")
        return np.broadcast_to(np.asarray(self.threshold, np.float32), (class_num,))


class MultiLabelEvaluator:
    """Metrics of scores for many classes per image, exact for any number of images.

    Args:
      class_num: C.
      workers: the processes that share the images; each one evaluates its own.
    """

    def __init__(
        self,
        class_num: int,
        workers: Distributed | None = None,
        options: MultiLabelOptions | None = None,
    ) -> None:
        self.class_num = class_num
        self.workers = workers or SingleProcess()
        self.options = options or MultiLabelOptions()
        self._thresholds = self.options.thresholds(class_num)
        self._store = ScoreStore(class_num, self.options.scratch_dir)
        self._means, self._sums = definitions.means_over_images(self.options.top), ExactSums()
        self._counts = ClassCounts.zeros(class_num)
        self._images_with_positive = 0
        self._positives: list[tuple[np.ndarray, np.ndarray]] = []  # classes and their scores
        self._ancestors: np.ndarray | None = None
        if self.options.parents is not None:
            self._ancestors = counts.ancestor_table(self.options.parents)
        self._closures = {k: np.zeros(3, np.int64) for k in self.options.top}

    def update(
        self,
        scores: np.ndarray,
        label_index: np.ndarray,
        label_value: np.ndarray,
    ) -> LabeledScores:
        """Adds a batch.

        Args:
          scores: float [B, C], finite; the higher, the more likely. Thresholds are in their unit.
          label_index, label_value: padded-sparse [B, K]; values below 0 are unknown. A class that
            is listed twice has its larger value.
        Returns: the batch as it was added, for other accumulators.
        Raises: UserError for wrong shapes, scores that are not finite, labels out of range.
        """
        batch = labeled(self.class_num, scores, label_index, label_value)
        scores, unknown = batch.scores, batch.unknown
        positive = batch.positive(self.options.positive_threshold)
        known = self.class_num - np.bincount(unknown[0], minlength=len(scores))
        ranked, before = counts.rank_in_images(scores, *positive)
        self._store.append(scores)
        self._positives.append((ranked.member, ranked.score))
        self._images_with_positive += len(np.unique(ranked.group))
        predicted, true = self._count_classes(scores, unknown, positive)
        images = ImageRankings(ranked, before, known, predicted, true)
        self._sums.add({name: metric.compute(images) for name, metric in self._means.items()})
        self._count_closures(scores, unknown, positive)
        return batch

    def measure(self) -> MultiLabelCounts:
        """The counts of all workers' images; every worker calls this and gets the same result.

        Raises: UndefinedError if no supported class has a positive label.
        """
        options, workers = self.options, self.workers
        of_classes = ClassCounts(*workers.sum(np.stack(self._counts)))
        supported = of_classes.positives > 0
        if options.supported is not None:
            supported &= options.supported
        if not supported.any():
            raise UndefinedError("no image has a positive label of a supported class")
        images = workers.sum(np.array([self._store.images, self._images_with_positive]))
        ranked, micro = self._rank_classes(supported)
        closures = {k: workers.sum(counted) for k, counted in self._closures.items()}
        return MultiLabelCounts(
            top=options.top,
            thresholds=self._thresholds,
            images=int(images[0]),
            images_with_positive=int(images[1]),
            counts=of_classes,
            supported=supported,
            sums=self._sums.totals(tuple(self._means), workers),
            ranked=ranked,
            micro=micro,
            reliability=self._reliability(supported, lambda scores: scores),
            closures=closures if self._ancestors is not None else {},
        )

    def result(self) -> dict[str, float]:
        """Every metric of `measure`, by name."""
        return definitions.compute_all(self.measure())

    def fit(self, measured: MultiLabelCounts, shift: float) -> Fit:
        """Fits temperature and thresholds; every worker calls this and gets the same result.

        Args:
          measured: the result of `measure`, for sigmoid scores.
          shift: see `Calibration`; the threshold of a class without a positive is the score that
            means "as likely as not" after the shift.
        Raises: UserError if no temperature can be fitted.
        """
        supported = measured.supported
        known = add_up(self._store, supported, logit_histogram)
        positive = logit_histogram(self._own_positives(supported))
        known, positive = self.workers.sum(np.stack([known, positive]))
        temperature = sigmoid_temperature(known, positive, shift)
        errors = {"raw": measured.reliability.expected_error}
        for name, value in (("corrected", 1.0), ("calibrated", temperature)):
            calibration = Calibration("sigmoid", shift, value)
            found = self._reliability(supported, calibration.probabilities)
            errors[name] = found.expected_error
        even = np.full(self.class_num, 1 / (1 + np.exp(-shift)))
        thresholds = counts.best_thresholds(measured.ranked, self.class_num, even)
        return Fit(temperature, errors, thresholds)

    def _reliability(
        self, supported: np.ndarray, probabilities: Callable[[np.ndarray], np.ndarray]
    ) -> Reliability:
        """Reliability of these probabilities on all known (image, supported class) pairs."""
        table = add_up(self._store, supported, lambda scores: table_of(probabilities(scores)))
        table[1] = table_of(probabilities(self._own_positives(supported)))[0]
        return Reliability.from_table(self.workers.sum(table))

    def _own_positives(self, supported: np.ndarray) -> np.ndarray:
        """The scores of this worker's positive labels of supported classes, float32 [P]."""
        scores = [scores[supported[classes]] for classes, scores in self._positives]
        return np.concatenate([np.zeros(0, np.float32), *scores])

    def _count_classes(
        self,
        scores: np.ndarray,
        unknown: tuple[np.ndarray, np.ndarray],
        positive: tuple[np.ndarray, np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Adds the predictions at the thresholds, by class.

        Returns: int [B] each, the predictions of each image and the positives among them.
        """
        predicted = scores >= self._thresholds
        rows, classes = positive
        true = predicted[positive]

        def by_class(selected: np.ndarray) -> np.ndarray:
            return np.bincount(selected, minlength=self.class_num)

        self._counts.known[:] += len(scores) - by_class(unknown[1])
        self._counts.positives[:] += by_class(classes)
        self._counts.predicted[:] += predicted.sum(axis=0)
        self._counts.true[:] += by_class(classes[true])
        true_in_images = np.bincount(rows[true], minlength=len(scores))
        return np.count_nonzero(predicted, axis=1), true_in_images

    def _count_closures(
        self,
        scores: np.ndarray,
        unknown: tuple[np.ndarray, np.ndarray],
        positive: tuple[np.ndarray, np.ndarray],
    ) -> None:
        if self._ancestors is None:
            return
        with_positive = np.zeros(len(scores), bool)
        with_positive[positive[0]] = True
        rows, classes, places = counts.top_classes(scores, max(self._closures))
        for k, counted in self._closures.items():
            used = with_positive[rows] & (places < k)
            predicted = rows[used], classes[used]
            counted += counts.hierarchical_counts(predicted, positive, unknown, self._ancestors)

    def _rank_classes(self, supported: np.ndarray) -> tuple[RankedPositives, RankedPositives]:
        """The positives of all workers, ranked within their class, and in all supported classes."""
        classes, scores = self._gather_positives()
        of_use = supported[classes]
        levels = np.unique(scores[of_use])
        counted = count_at_least(self._store, classes, scores, levels, supported)
        # Counts over the images of each worker add up to the counts over all.
        at_least, level_at_least = (self.workers.sum(count) for count in counted)
        true = counts.positives_at_least(classes, scores)
        ranked = RankedPositives(classes, classes, scores, at_least, true)
        order = np.lexsort((classes[of_use], -scores[of_use]))
        members, ordered = classes[of_use][order], scores[of_use][order]
        group = np.zeros_like(members)
        micro_at_least = level_at_least[np.searchsorted(levels, ordered)]
        true = counts.positives_at_least(group, ordered)
        return ranked, RankedPositives(group, members, ordered, micro_at_least, true)

    def _gather_positives(self) -> tuple[np.ndarray, np.ndarray]:
        """(classes, scores) of the positives of all workers, by class, best score first."""
        classes = [classes for classes, _ in self._positives]
        scores = [scores for _, scores in self._positives]
        own_classes = np.concatenate(classes or [np.zeros(0, np.int64)])
        bits = np.concatenate(scores or [np.zeros(0, np.float32)]).view(np.int32)
        all_classes = gather(own_classes, self.workers)
        all_scores = gather(bits, self.workers).astype(np.int32).view(np.float32)
        order = np.lexsort((-all_scores, all_classes))
        return all_classes[order], all_scores[order]


class SingleLabelEvaluator:
    """Top-k accuracy and loss of probabilities where an image has one label.

    Args:
      class_num, workers: as in `MultiLabelEvaluator`.
      top: the values of k for top-k accuracy.
      fits: whether `fit` will be called, which makes `update` slower.
    """

    def __init__(
        self,
        class_num: int,
        workers: Distributed | None = None,
        top: tuple[int, ...] = (1, 5),
        fits: bool = False,
    ) -> None:
        self.class_num, self.top = class_num, top
        self.workers = workers or SingleProcess()
        self._sums = ExactSums()
        self._images = np.zeros(class_num, np.int64)
        self._correct = np.zeros((len(top), class_num), np.int64)
        self._reliability = np.zeros((3, BINS), np.int64)
        self._temperatures = SoftmaxTemperatures() if fits else None

    def update(
        self,
        scores: np.ndarray,
        label_index: np.ndarray,
        label_value: np.ndarray,
    ) -> LabeledScores:
        """Adds a batch with one label per image; see `MultiLabelEvaluator.update`.

        Scores are probabilities; the loss is minus the logarithm of the label's probability.
        """
        labels = labeled(self.class_num, scores, label_index, label_value)
        scores = labels.scores
        if not np.array_equal(labels.rows, np.arange(len(scores))) or (labels.values <= 0).any():
            raise UserError(
                "top-k accuracy needs exactly one label per image; for several: --label_mode=multi"
            )
        own = scores[labels.rows, labels.classes]
        tied = (scores == own[:, None]) & (np.arange(self.class_num) < labels.classes[:, None])
        before = np.count_nonzero((scores > own[:, None]) | tied, axis=1)
        self._images += np.bincount(labels.classes, minlength=self.class_num)
        for k, correct in zip(self.top, self._correct, strict=True):
            correct += np.bincount(labels.classes[before < k], minlength=self.class_num)
        self._sums.add({"loss": -np.log(np.maximum(own, TINY))})
        self._reliability += table_of(scores.max(axis=1), before == 0)
        if self._temperatures:
            self._temperatures.update(scores, labels.classes)
        return labels

    def measure(self) -> SingleLabelCounts:
        """The counts of all workers' images; every worker calls this and gets the same result.

        Raises: UndefinedError if there is no image.
        """
        images = self.workers.sum(self._images)
        if not images.any():
            raise UndefinedError("there is no image to evaluate")
        return SingleLabelCounts(
            top=self.top,
            class_images=images,
            correct=self.workers.sum(self._correct),
            loss_sum=self._sums.totals(("loss",), self.workers)["loss"],
            reliability=Reliability.from_table(self.workers.sum(self._reliability)),
        )

    def fit(self, measured: SingleLabelCounts, shift: float = 0.0) -> Fit:
        """Fits the temperature, like `MultiLabelEvaluator.fit`; softmax has no shift."""
        del shift
        temperature, error = self._temperatures.fit(self.workers)
        raw = measured.reliability.expected_error
        return Fit(temperature, {"raw": raw, "corrected": raw, "calibrated": error})

    def result(self) -> dict[str, float]:
        """Every metric of `measure`, by name."""
        return definitions.compute_all(self.measure())
