"""Expected calibration error by hand, temperatures that are known, and workers that add up."""

import numpy as np
import pytest
from metric_cases import Threads, listed

from data.common.errors import UserError
from models.calibration import Calibration
from models.metrics import definitions
from models.metrics.evaluators import (
    MultiLabelEvaluator,
    MultiLabelOptions,
    SingleLabelEvaluator,
)
from models.metrics.reliability import Reliability, table_of
from models.metrics.temperature import TEMPERATURES, best_temperature

SHIFT = np.log(12.0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def evaluated(scores, labels, workers=None, options=None):
    evaluator = MultiLabelEvaluator(scores.shape[1], workers, options)
    for start in range(0, len(scores), 500):
        part = slice(start, start + 500)
        evaluator.update(scores[part], *listed(labels[part]))
    return evaluator, evaluator.measure()


def single(scores, labels, workers=None, fits=True):
    evaluator = SingleLabelEvaluator(scores.shape[1], workers, fits=fits)
    for start in range(0, len(scores), 500):
        index = labels[start : start + 500, None]
        evaluator.update(scores[start : start + 500], index, np.ones(index.shape))
    return evaluator, evaluator.measure()


def test_bins_are_open_below_and_closed_above():
    edges = np.arange(16) / 15
    assert table_of(edges)[0].tolist() == [2, *[1] * 14]
    assert table_of(edges[1:-1] + 1e-9)[0].tolist() == [0, *[1] * 14]


def test_of_one_label_by_hand():
    """Four images: 0.5 twice, right once (bin 8); 0.9, right (14); 1.0, wrong (15)."""
    scores = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.05, 0.9, 0.05], [0, 0, 1]], "f4")
    _, counts = single(scores, np.array([0, 1, 1, 0]))
    expected = (abs(1 - 2 * 0.5) + abs(1 - 0.9) + abs(0 - 1)) / 4
    assert definitions.compute_all(counts)["ece"] == pytest.approx(expected, abs=1e-7)
    predictions, true, confidence = counts.reliability
    assert (predictions[[7, 13, 14]].tolist(), predictions.sum()) == ([2, 1, 1], 4)
    assert true[[7, 13, 14]].tolist() == [1, 1, 0]
    np.testing.assert_allclose(confidence[[7, 13, 14]], [1, 0.9, 1], atol=1e-7)


def test_of_several_labels_by_hand():
    """The unknown pair (0.99) and the third class, which has no positive, do not count."""
    scores = np.array([[0.9, 0.1, 0.5], [0.93, 0.12, 0.5], [0.99, 0.4, 0.5]], "f4")
    labels = np.array([[1, 0, 0], [0, 0, 0], [-1, 1, 0]])
    _, counts = evaluated(scores, labels)
    # Bins: 0.9 and 0.93 (14), of which one holds; 0.1, 0.12 (2), none holds; 0.4 (6), it holds.
    expected = (abs(1 - (0.9 + 0.93)) + abs(0 - 0.22) + abs(1 - 0.4)) / 5
    assert definitions.compute_all(counts)["ece"] == pytest.approx(expected, abs=1e-7)
    assert counts.reliability.predictions.sum() == 5
    chosen = MultiLabelOptions(supported=np.array([False, True, False]))
    _, counts = evaluated(scores, labels, options=chosen)
    assert counts.reliability.predictions.sum() == 3


def multi_case(temperature, images=20_000):
    """Raw scores, and labels drawn with the probabilities that shift and temperature make of them.

    Some labels are unknown.
    """
    rng = np.random.default_rng(5)
    logits = rng.normal(SHIFT - 1, 2.5, (images, 6))
    probabilities = sigmoid((logits - SHIFT) / temperature)
    labels = (rng.random(logits.shape) < probabilities).astype(float)
    labels[rng.random(logits.shape) < 0.1] = -1
    return sigmoid(logits).astype(np.float32), labels


def single_case(temperature, images=10_000):
    rng = np.random.default_rng(6)
    logits = rng.normal(0, 3, (images, 5))
    drawn = logits / temperature + rng.gumbel(size=logits.shape)
    scores = np.exp(logits)
    return (scores / scores.sum(1, keepdims=True)).astype(np.float32), drawn.argmax(1)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_a_known_temperature_is_found(temperature):
    scores, labels = multi_case(temperature)
    evaluator, counts = evaluated(scores, labels)
    fit = evaluator.fit(counts, SHIFT)
    assert fit.temperature == pytest.approx(temperature, rel=0.03)
    raw, corrected, calibrated = (fit.errors[n] for n in ("raw", "corrected", "calibrated"))
    assert calibrated <= corrected + 0.002 and calibrated < 0.02 < 0.1 < raw
    # As measured anew with the calibrated probabilities.
    calibration = Calibration("sigmoid", SHIFT, fit.temperature)
    _, again = evaluated(calibration.probabilities(scores).astype(np.float32), labels)
    assert again.reliability.expected_error == pytest.approx(calibrated, abs=1e-4)

    evaluator, counts = single(*single_case(temperature))
    fit = evaluator.fit(counts)
    assert fit.temperature == pytest.approx(temperature, rel=0.03)
    assert fit.errors["raw"] == fit.errors["corrected"] == counts.reliability.expected_error
    assert fit.errors["calibrated"] < 0.03 and fit.thresholds is None


def test_thresholds_are_those_of_the_best_f1_or_as_likely_as_not():
    scores, labels = multi_case(1.0, 500)
    labels[:, 4] = np.minimum(labels[:, 4], 0)
    evaluator, counts = evaluated(scores, labels)
    fit = evaluator.fit(counts, SHIFT)
    used = np.arange(6) != 4
    np.testing.assert_array_equal(fit.thresholds[used], counts.fitted_thresholds()[used])
    assert fit.thresholds[4] == np.float32(12 / 13)


def test_workers_fit_what_one_does_to_the_last_bit():
    scores, labels = multi_case(1.5, 400)
    evaluator, counts = evaluated(scores, labels)
    one = evaluator.fit(counts, SHIFT)

    def part(worker, rank):
        evaluator, counts = evaluated(scores[rank::3], labels[rank::3], worker)
        return evaluator.fit(counts, SHIFT)

    for other in Threads(3).run(part):
        assert (other.temperature, other.errors) == (one.temperature, one.errors)
        np.testing.assert_array_equal(other.thresholds, one.thresholds)

    scores, labels = single_case(1.5, 300)
    evaluator, counts = single(scores, labels)
    one = evaluator.fit(counts)
    found = Threads(2).run(
        lambda worker, rank: (lambda pair: pair[0].fit(pair[1]))(
            single(scores[rank::2], labels[rank::2], worker)
        )
    )
    assert found == [one, one]


def test_labels_that_scores_part_without_a_mistake_have_no_temperature():
    scores = np.array([[0.9, 0.1], [0.2, 0.8]], "f4").repeat(20, axis=0)
    evaluator, counts = evaluated(scores, (scores > 0.5).astype(float))
    with pytest.raises(UserError, match="no temperature can be fitted"):
        evaluator.fit(counts, 0.0)
    with pytest.raises(UserError, match="no temperature can be fitted"):
        best_temperature(np.ones(len(TEMPERATURES)))


def test_sums_of_tables_divide_once():
    confidence, true = np.array([0.31, 0.32, 0.72]), np.array([True, False, True])
    whole = Reliability.from_table(table_of(confidence, true))
    parts = table_of(confidence[:1], true[:1]) + table_of(confidence[1:], true[1:])
    assert Reliability.from_table(parts).expected_error == whole.expected_error
