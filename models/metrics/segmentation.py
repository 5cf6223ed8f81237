"""Segmentation metrics, all from one confusion matrix of pixels, summed over workers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.common.errors import UserError
from data.dense.annotation import IGNORED
from models.distributed.base import Distributed, SingleProcess
from models.metrics.counts import UndefinedError, ratio
from models.metrics.definitions import COUNT, HIGHER, SEGMENTATION, metric


@dataclass(frozen=True)
class SegmentationCounts:
    """The pixels of a segmentation.

    Attributes:
      confusion: int64 [C, C], labeled pixels by true class (rows) and predicted class (columns).
      images: number of images.
    """

    confusion: np.ndarray
    images: int

    @property
    def correct(self) -> np.ndarray:
        """int64 [C]: correctly predicted pixels of each class."""
        return self.confusion.diagonal()

    @property
    def labeled(self) -> np.ndarray:
        """int64 [C]: labeled pixels of each class."""
        return self.confusion.sum(axis=1)

    @property
    def iou(self) -> np.ndarray:
        """float64 [C]: intersection over union of each class; NaN where there is no union."""
        union = self.labeled + self.confusion.sum(axis=0) - self.correct
        return ratio(self.correct, union, empty=np.nan)

    def metrics(self) -> dict[str, float]:
        """Every metric by name."""
        return {name: found.compute(self) for name, found in SEGMENTATION.items()}

    def by_class(self) -> dict[str, np.ndarray]:
        """Columns [C] of the table of classes, by name."""
        return {"pixels": self.labeled, "iou": self.iou}


@metric("images", COUNT, "images evaluated", table=SEGMENTATION)
def image_count(counts: SegmentationCounts) -> int:
    return counts.images


@metric(
    "miou", HIGHER, "mean of the classes' intersection over union", headline=True,
    table=SEGMENTATION,
)  # fmt: skip
def miou(counts: SegmentationCounts) -> float:
    """Over the classes that occur in a mask or a prediction, including the background.

    PASCAL VOC's own code divides by the union, too; there, all classes occur.
    """
    return float(np.nanmean(counts.iou))


@metric("pixel_accuracy", HIGHER, "fraction of labeled pixels predicted right", table=SEGMENTATION)
def pixel_accuracy(counts: SegmentationCounts) -> float:
    return float(counts.correct.sum() / counts.confusion.sum())


@metric("mean_accuracy", HIGHER, "mean of the classes' pixel accuracy", table=SEGMENTATION)
def mean_accuracy(counts: SegmentationCounts) -> float:
    """Over the classes that occur in a mask."""
    return float(np.nanmean(ratio(counts.correct, counts.labeled, empty=np.nan)))


class SegmentationEvaluator:
    """Mean IoU and accuracies of predicted masks, exact for any number of images and workers.

    Args:
      class_num: C, the background included.
      workers: the processes that share the images; each one evaluates its own.
    """

    def __init__(self, class_num: int, workers: Distributed | None = None) -> None:
        self.class_num, self.workers = class_num, workers or SingleProcess()
        self._confusion = np.zeros((class_num, class_num), np.int64)
        self._images = 0

    def update(self, prediction: np.ndarray, mask: np.ndarray) -> None:
        """Adds an image.

        Args:
          prediction: int [H, W], classes; values where the mask is `IGNORED` do not count.
          mask: int [H, W], classes, or `IGNORED`.

        Raises:
          UserError: the shapes differ, or a class is not in 0 to C - 1.
        """
        prediction, mask = np.asarray(prediction), np.asarray(mask)
        if mask.ndim != 2 or prediction.shape != mask.shape:
            raise UserError(
                f"a mask of shape {list(mask.shape)} does not fit"
                f" a prediction of shape {list(prediction.shape)}"
            )
        labeled = mask != IGNORED
        true, predicted = (pixels[labeled].astype(np.int64) for pixels in (mask, prediction))
        for kind, classes in (("mask", true), ("prediction", predicted)):
            wrong = classes[(classes < 0) | (classes >= self.class_num)]
            if wrong.size:
                raise UserError(
                    f"a {kind} has class {wrong[0]}, but classes are 0 to {self.class_num - 1}"
                )
        pairs = true * self.class_num + predicted
        self._confusion += np.bincount(pairs, minlength=self.class_num**2).reshape(
            self._confusion.shape
        )
        self._images += 1

    def measure(self) -> SegmentationCounts:
        """The counts of all workers' images; every worker calls this and gets the same result.

        Raises:
          UndefinedError: there is no labeled pixel.
        """
        confusion = self.workers.sum(self._confusion)
        images = self.workers.sum(np.array([self._images], np.int64))[0]
        if not confusion.any():
            raise UndefinedError("there is no labeled pixel to evaluate")
        return SegmentationCounts(confusion, int(images))

    def result(self) -> dict[str, float]:
        """Every metric of `measure`, by name."""
        return self.measure().metrics()
