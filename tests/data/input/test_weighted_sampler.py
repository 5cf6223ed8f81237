"""Class-balanced sampling."""

import numpy as np

from data.input.sampler import (
    BLOCK,
    WeightedSampler,
    describe_counts,
    record_weights,
)
from data.tfrecords.record_source import count_classes

# Class 0 in eight records, class 1 in two, one of these with both; one record has no label.
LABELS = [np.array([0])] * 7 + [np.array([0, 1]), np.array([1]), np.array([], int)]


def test_weights_are_those_of_the_rarest_class() -> None:
    assert record_weights(LABELS, 3, 1.0).tolist() == [1 / 8] * 7 + [1 / 2, 1 / 2, 1 / 8]
    assert record_weights(LABELS, 3, 0.0).tolist() == [1.0] * 10


def test_draws_follow_the_weights_and_depend_on_the_position_alone() -> None:
    weights = np.array([1.0, 0.0, 2.0, 5.0])
    order = WeightedSampler(weights, seed=7)
    drawn = order.records(0, 80_000)
    np.testing.assert_allclose(np.bincount(drawn) / 80_000, weights / 8, atol=0.01)
    start = 2 * BLOCK - 3
    part = WeightedSampler(weights, seed=7).records(start, 10)
    np.testing.assert_array_equal(part, drawn[start : start + 10])
    assert not np.array_equal(WeightedSampler(weights, seed=8).records(0, 100), drawn[:100])


def test_counts_are_described_and_empty_classes_named() -> None:
    line = "positive records of 3 classes: 0: 8, 1: 2, 2: 0; 1 without any, the first 2"
    assert describe_counts(count_classes(LABELS, 3)) == line
    assert "from 0 to 8, median 0; 499 without any" in describe_counts(count_classes(LABELS, 501))
