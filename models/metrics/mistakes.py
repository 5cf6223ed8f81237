"""The labels of single images: true, predicted, missed and wrong, and what these add up to."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from models.distributed.base import Distributed
from models.metrics import counts
from models.metrics.accumulators import FIXED_POINT, TINY, PairCounts
from models.metrics.counts import ratio
from models.metrics.labeled import LEFT_OUT, LabeledScores


class ImageLabels(NamedTuple):
    """Labels of a batch of images: the positive ones, and the best predictions of each image.

    Entries [N], sorted by row, then best score first; a label that is positive and not predicted is
    missed, one that is predicted and not positive is wrong.
    """

    rows: np.ndarray  # int: the image in the batch
    classes: np.ndarray  # int
    scores: np.ndarray  # float32
    positive: np.ndarray  # bool
    predicted: np.ndarray  # bool
    losses: np.ndarray  # float64 [B], of the images


class LabelStatistics(NamedTuple):
    """What the labels of all images add up to.

    Attributes:
      confusions: int64 [N, 3], rows (missed class, wrong class, images), most frequent first.
      present, absent: float64 [C], mean score of a class over the images where it is a positive,
        or respectively a negative, label; NaN where there is none.
    """

    confusions: np.ndarray
    present: np.ndarray
    absent: np.ndarray


class ImageLabelCounter:
    """Lists the labels of images batch by batch, and counts confusions of classes.

    Classes m and w are confused in an image where m is missed and w is wrong.

    Args:
      class_num: C.
      top: number of best known classes listed per image, in addition to its positive ones.
      thresholds: float32 [C], scores from which the listed classes are predicted; None: an image
        has one label, and its best class is predicted.
      positive_threshold: confidence from which a label is positive.
    """

    def __init__(
        self,
        class_num: int,
        top: int,
        thresholds: np.ndarray | None = None,
        positive_threshold: float = 0.5,
    ) -> None:
        self._top, self._thresholds = top, thresholds
        self._positive_threshold = positive_threshold
        self._confusions = PairCounts(class_num)
        # Score sums of known and of positive labels, as multiples of 1 / FIXED_POINT; their counts.
        self._sums = np.zeros((4, class_num), np.int64)

    def update(self, batch: LabeledScores) -> ImageLabels:
        """The labels of a batch, as returned by an evaluator's `update`."""
        scores, positive = batch.scores, batch.positive_mask(self._positive_threshold)
        self._add(scores, positive)
        listed = positive.copy()
        best = counts.top_classes(scores, self._top)[:2]
        listed[best] = True
        rows, classes = np.nonzero(listed)
        order = np.lexsort((classes, -scores[rows, classes], rows))
        rows, classes = rows[order], classes[order]
        own = scores[rows, classes]
        if self._thresholds is None:
            predicted = classes == scores.argmax(axis=1)[rows]
        else:
            predicted = own >= self._thresholds[classes]
        found = ImageLabels(
            *(rows, classes, own, positive[rows, classes], predicted),
            self._losses(scores, positive),
        )
        self._confuse(found)
        return found

    def measure(self, workers: Distributed) -> LabelStatistics:
        """The statistics of all workers' images; all workers call this and get the same result."""
        sums, positive_sums, known, positives = workers.sum(self._sums)
        return LabelStatistics(
            self._confusions.gather(workers),
            ratio(positive_sums / FIXED_POINT, positives, empty=np.nan),
            ratio((sums - positive_sums) / FIXED_POINT, known - positives, empty=np.nan),
        )

    def _add(self, scores: np.ndarray, positive: np.ndarray) -> None:
        known = scores != LEFT_OUT
        fixed = np.rint(np.where(known, scores, 0) * float(FIXED_POINT)).astype(np.int64)
        totals = fixed.sum(0), np.where(positive, fixed, 0).sum(0), known.sum(0), positive.sum(0)
        self._sums += np.stack(totals)

    def _losses(self, scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
        """float64 [B]: minus the logarithm of the probability of each image's known labels."""
        right = np.where(positive, scores, 1)
        if self._thresholds is not None:
            right = np.where(positive, scores, np.where(scores == LEFT_OUT, 1, 1 - scores))
        return -np.log(np.maximum(right, TINY)).sum(axis=1, dtype=np.float64)

    def _confuse(self, found: ImageLabels) -> None:
        missed, wrong = found.positive & ~found.predicted, found.predicted & ~found.positive
        for row in np.intersect1d(found.rows[missed], found.rows[wrong]):
            of_row = found.rows == row
            pairs = np.meshgrid(found.classes[of_row & missed], found.classes[of_row & wrong])
            self._confusions.add(*(classes.ravel() for classes in pairs))
