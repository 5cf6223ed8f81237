"""Every metric: a function with its name, direction and meaning.

Evaluations compute all metrics of this file, in its order; results, logs, report and early stopping
take names, directions and meanings from here. Formulas and sources: docs/metrics.md; adding one:
docs/extending.md.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from models.metrics.counts import (
    ImageRankings,
    MultiLabelCounts,
    SingleLabelCounts,
    average_precisions,
    ratio,
    wilson_interval,
)

HIGHER, LOWER, COUNT = "higher", "lower", "count"  # what is better; a count is neither
ALL_IMAGES, WITH_POSITIVE = "images", "images_with_positive"


class Metric(NamedTuple):
    """A metric, as `metric` registers it.

    Attributes:
      better: HIGHER, LOWER or COUNT.
      meaning: one phrase, in which `{k}` is replaced by the number in the name.
      compute: the function.
      mean_over: the images over which the mean is taken; None: `compute` returns the metric itself.
      headline: logged during training, and plotted against the step.
    """

    better: str
    meaning: str
    compute: Callable[..., Any]
    mean_over: str | None = None
    headline: bool = False

    def at(self, k: int) -> Metric:
        """This metric for one k."""
        compute = functools.partial(self.compute, k=k)
        return self._replace(meaning=self.meaning.format(k=k), compute=compute)


MULTI_LABEL: dict[str, Metric] = {}
SINGLE_LABEL: dict[str, Metric] = {}
SEGMENTATION: dict[str, Metric] = {}  # filled by models/metrics/segmentation.py


def metric(
    name: str,
    better: str,
    meaning: str,
    mean_over: str | None = None,
    *,
    headline: bool = False,
    table: dict[str, Metric] = MULTI_LABEL,
) -> Callable[[Callable], Callable]:
    """Registers the function below as a metric.

    The function takes `MultiLabelCounts`, in the table SINGLE_LABEL `SingleLabelCounts`, and in
    SEGMENTATION `SegmentationCounts`; it returns a number, or None if the metric is not defined.
    With `mean_over` it takes the `ImageRankings` of a batch and returns float64 [B]; the metric is
    the mean over these images. A name with `{k}` makes one metric per k, passed to the function.
    """

    def register(function: Callable) -> Callable:
        table[name] = Metric(better, meaning, function, mean_over, headline)
        return function

    return register


def each(table: dict[str, Metric], top: tuple[int, ...]) -> Iterator[tuple[str, Metric]]:
    """(name, metric) of every metric of a result; adjacent ones with `{k}` are grouped by k."""
    for is_at_k, group in itertools.groupby(table.items(), lambda item: "{k}" in item[0]):
        metrics = list(group)
        if not is_at_k:
            yield from metrics
        else:
            yield from ((name.format(k=k), found.at(k)) for k in top for name, found in metrics)


def compute_all(counts: MultiLabelCounts | SingleLabelCounts) -> dict[str, float]:
    """Every metric, by name."""
    table = MULTI_LABEL if isinstance(counts, MultiLabelCounts) else SINGLE_LABEL
    values = {}
    for name, found in each(table, counts.top):
        if found.mean_over:
            values[name] = counts.sums[name] / getattr(counts, found.mean_over)
        else:
            values[name] = found.compute(counts)
    return {name: value for name, value in values.items() if value is not None}


def means_over_images(top: tuple[int, ...]) -> dict[str, Metric]:
    """The metrics that are means over images, by name."""
    return {name: found for name, found in each(MULTI_LABEL, top) if found.mean_over}


def find(name: str) -> Metric | None:
    """The metric with this name, with or without the prefix `ema_`; None if there is none."""
    name = name.removeprefix("ema_")
    every = SEGMENTATION | MULTI_LABEL | SINGLE_LABEL
    number = re.search(r"(?<=_)\d+", name)
    if number is None:
        return every.get(name)
    template = name[: number.start()] + "{k}" + name[number.end() :]
    found = every.get(template)
    return found and found.at(int(number[0]))


# ---- Several labels per image -------------------------------------------------------------------


@metric("images", COUNT, "images evaluated")
@metric("images", COUNT, "images evaluated", table=SINGLE_LABEL)
def image_count(counts: MultiLabelCounts | SingleLabelCounts) -> int:
    return counts.images


@metric("images_with_positive", COUNT, "images with at least one positive label")
def images_with_positive_count(counts: MultiLabelCounts) -> int:
    return counts.images_with_positive


@metric("supported_classes", COUNT, "classes included in the means over classes")
def supported_class_count(counts: MultiLabelCounts) -> int:
    return int(counts.supported.sum())


@metric("map_macro", HIGHER, "mean of the classes' average precision", headline=True)
def map_macro(counts: MultiLabelCounts) -> float:
    return counts.mean("average_precision")


@metric(
    "map_micro",
    HIGHER,
    "average precision of all (image, class) pairs in one ranking",
    headline=True,
)
def map_micro(counts: MultiLabelCounts) -> float:
    return float(average_precisions(counts.micro, 1)[0])


@metric("map_weighted", HIGHER, "mean of the classes' average precision, by number of positives")
def map_weighted(counts: MultiLabelCounts) -> float:
    used = counts.supported
    weights = counts.counts.positives[used]
    return float(np.average(counts.average_precisions[used], weights=weights))


# `coverage`, `ranking_loss` and `label_ranking_ap` follow scikit-learn, which counts images without
# a positive (as 0, 0 and 1); the other means leave them out.


@metric("coverage", LOWER, "classes down the ranking until all positives are found", ALL_IMAGES)
def coverage(images: ImageRankings) -> np.ndarray:
    depth = np.zeros(len(images.known))
    np.maximum.at(depth, images.ranked.group, images.ranked.at_least)
    return depth


@metric(
    "ranking_loss", LOWER, "fraction of (positive, negative) pairs in the wrong order", ALL_IMAGES
)
def ranking_loss(images: ImageRankings) -> np.ndarray:
    pairs = images.positives * (images.known - images.positives)
    return ratio(images.total(images.ranked.at_least - images.ranked.true), pairs)


@metric(
    "label_ranking_ap",
    HIGHER,
    "mean over labels of the fraction of positives ranked down to them",
    ALL_IMAGES,
)
def label_ranking_ap(images: ImageRankings) -> np.ndarray:
    precisions = images.total(images.ranked.true / images.ranked.at_least)
    return ratio(precisions, images.positives, empty=1.0)


@metric("one_error", LOWER, "fraction of images whose best class is wrong", WITH_POSITIVE)
def one_error(images: ImageRankings) -> np.ndarray:
    return ((images.true_at(1) == 0) & (images.positives > 0)).astype(np.float64)


@metric(
    "precision_at_{k}",
    HIGHER,
    "mean over images: fraction of the best {k} classes that are correct",
    WITH_POSITIVE,
)
def precision_at_k(images: ImageRankings, k: int) -> np.ndarray:
    return ratio(images.true_at(k), np.minimum(k, images.known))


@metric(
    "recall_at_{k}",
    HIGHER,
    "mean over images: fraction of labels among the best {k} classes",
    WITH_POSITIVE,
)
def recall_at_k(images: ImageRankings, k: int) -> np.ndarray:
    return ratio(images.true_at(k), images.positives)


@metric(
    "f1_at_{k}",
    HIGHER,
    "mean over images: F1 of the best {k} classes",
    WITH_POSITIVE,
    headline=True,
)
def f1_at_k(images: ImageRankings, k: int) -> np.ndarray:
    return ratio(2 * images.true_at(k), np.minimum(k, images.known) + images.positives)


@metric(
    "precision_at_threshold",
    HIGHER,
    "mean over images: precision of the classes predicted",
    WITH_POSITIVE,
)
def precision_at_threshold(images: ImageRankings) -> np.ndarray:
    return ratio(images.true, images.predicted)


@metric(
    "recall_at_threshold",
    HIGHER,
    "mean over images: recall of the classes predicted",
    WITH_POSITIVE,
)
def recall_at_threshold(images: ImageRankings) -> np.ndarray:
    return ratio(images.true, images.positives)


@metric("f1_at_threshold", HIGHER, "mean over images: F1 of the classes predicted", WITH_POSITIVE)
def f1_at_threshold(images: ImageRankings) -> np.ndarray:
    return ratio(2 * images.true, images.predicted + images.positives)


@metric("macro_precision", HIGHER, "mean over classes: precision of the predictions")
def macro_precision(counts: MultiLabelCounts) -> float:
    return counts.mean("precision")


@metric("macro_recall", HIGHER, "mean over classes: recall of the predictions")
def macro_recall(counts: MultiLabelCounts) -> float:
    return counts.mean("recall")


@metric("macro_f1", HIGHER, "mean over classes: F1 of the predictions")
def macro_f1(counts: MultiLabelCounts) -> float:
    return counts.mean("f1")


@metric("micro_precision", HIGHER, "precision of all predictions together")
def micro_precision(counts: MultiLabelCounts) -> float:
    total = counts.totals()
    return float(ratio(total.true, total.predicted))


@metric("micro_recall", HIGHER, "recall of all predictions together")
def micro_recall(counts: MultiLabelCounts) -> float:
    total = counts.totals()
    return float(ratio(total.true, total.positives))


@metric("micro_f1", HIGHER, "F1 of all predictions together")
def micro_f1(counts: MultiLabelCounts) -> float:
    total = counts.totals()
    return float(ratio(2 * total.true, total.predicted + total.positives))


@metric("hamming", LOWER, "fraction of (image, class) pairs predicted wrongly")
def hamming(counts: MultiLabelCounts) -> float:
    total = counts.totals()
    return float(ratio(total.predicted + total.positives - 2 * total.true, total.known))


@metric(
    "hierarchical_precision_at_{k}",
    HIGHER,
    "fraction of the best {k} classes and their ancestors that are correct",
)
def hierarchical_precision_at_k(counts: MultiLabelCounts, k: int) -> float | None:
    if k not in counts.closures:
        return None
    common, predicted, _ = counts.closures[k]
    return float(ratio(common, predicted))


@metric(
    "hierarchical_recall_at_{k}",
    HIGHER,
    "fraction of labels and ancestors among the best {k} and theirs",
)
def hierarchical_recall_at_k(counts: MultiLabelCounts, k: int) -> float | None:
    if k not in counts.closures:
        return None
    common, _, positive = counts.closures[k]
    return float(ratio(common, positive))


@metric("hierarchical_f1_at_{k}", HIGHER, "harmonic mean of the two above")
def hierarchical_f1_at_k(counts: MultiLabelCounts, k: int) -> float | None:
    if k not in counts.closures:
        return None
    common, predicted, positive = counts.closures[k]
    return float(ratio(2 * common, predicted + positive))


_ECE = "expected calibration error: mean |confidence - fraction that holds|, in 15 bins"


@metric("ece", LOWER, _ECE)
@metric("ece", LOWER, _ECE, table=SINGLE_LABEL)
def expected_calibration_error(counts: MultiLabelCounts | SingleLabelCounts) -> float:
    return counts.reliability.expected_error


# ---- One label per image ------------------------------------------------------------------------


@metric("loss", LOWER, "mean of minus the logarithm of the label's probability", table=SINGLE_LABEL)
def loss(counts: SingleLabelCounts) -> float:
    return counts.loss_sum / counts.images


@metric(
    "top_{k}",
    HIGHER,
    "fraction of images with their label among the best {k}",
    table=SINGLE_LABEL,
    headline=True,
)
def top_k(counts: SingleLabelCounts, k: int) -> float:
    return counts.correct_at(k) / counts.images


@metric("top_{k}_low", HIGHER, "low end of its 95 % interval (Wilson)", table=SINGLE_LABEL)
def top_k_low(counts: SingleLabelCounts, k: int) -> float:
    return wilson_interval(counts.correct_at(k), counts.images)[0]


@metric("top_{k}_high", HIGHER, "high end of its 95 % interval (Wilson)", table=SINGLE_LABEL)
def top_k_high(counts: SingleLabelCounts, k: int) -> float:
    return wilson_interval(counts.correct_at(k), counts.images)[1]


@metric("mean_class_accuracy", HIGHER, "mean of the classes' top-1", table=SINGLE_LABEL)
def mean_class_accuracy(counts: SingleLabelCounts) -> float:
    accuracy = ratio(counts.correct[0], counts.class_images)
    return float(accuracy[counts.class_images > 0].mean())
