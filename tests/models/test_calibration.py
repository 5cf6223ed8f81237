"""From scores to probabilities: the closed form against the loss itself, and temperature."""

import numpy as np
import pytest
import tensorflow as tf

from models import losses
from models.calibration import Calibration

WEIGHT = 12.0
CORRECTED = Calibration("sigmoid", np.log(WEIGHT))


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def test_the_loss_is_least_at_the_score_that_the_closed_form_takes_back():
    """Of a class that holds in 3 of 10 images, the gradient of the loss vanishes there."""
    p = 0.3
    q = WEIGHT * p / (WEIGHT * p + 1 - p)
    logits = tf.fill([10, 1], tf.constant(np.log(q / (1 - q)), tf.float32))
    index, value = tf.zeros([10, 1], tf.int32), tf.constant([[1.0]] * 3 + [[0.0]] * 7)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = losses.multi_label_loss(logits, index, value, positive_weight=WEIGHT)
    assert abs(float(tf.reduce_sum(tape.gradient(loss, logits)))) < 1e-6
    assert CORRECTED.probabilities(np.float32(q)) == pytest.approx(p, abs=1e-6)


def test_the_closed_form_equals_its_formula():
    q = np.array([0, 1e-20, 0.01, 0.5, 12 / 13, 0.999], np.float32)
    expected = q / (q + WEIGHT * (1 - q.astype(np.float64)))
    np.testing.assert_allclose(CORRECTED.probabilities(q), expected, rtol=1e-6)
    assert CORRECTED.probabilities(np.float32(12 / 13)) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("score", ["sigmoid", "softmax"])
def test_scores_and_logits_lead_to_the_same_probabilities(score):
    logits = np.random.default_rng(0).normal(0, 3, (20, 7)).astype(np.float32)
    calibration = Calibration(score, 0.7 if score == "sigmoid" else 0.0, 1.7)
    raw = Calibration(score).activate(tf.constant(logits)).numpy()
    found = calibration.activate(tf.constant(logits)).numpy()
    np.testing.assert_allclose(calibration.probabilities(raw), found, atol=2e-6)
    x = calibration.logits(logits.astype(np.float64))
    by_hand = sigmoid(x) if score == "sigmoid" else np.exp(x) / np.exp(x).sum(1, keepdims=True)
    np.testing.assert_allclose(found, by_hand, atol=1e-6)


def test_without_a_change_scores_stay_to_the_last_bit():
    logits = tf.random.stateless_normal([50, 9], [1, 2])
    for score, function in (("sigmoid", tf.nn.sigmoid), ("softmax", tf.nn.softmax)):
        found = Calibration(score).activate(logits).numpy()
        np.testing.assert_array_equal(found, function(logits).numpy())
    kept = np.array([0.1, 0.5], np.float32)
    assert Calibration("sigmoid").thresholds(kept) is kept


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
def test_an_image_whose_score_is_the_threshold_is_kept(temperature):
    logits = np.linspace(-22, 20, 2001, dtype=np.float32)  # probabilities that float32 can hold
    calibration = Calibration("sigmoid", np.log(WEIGHT), temperature)
    thresholds = calibration.thresholds(tf.nn.sigmoid(logits).numpy())
    probabilities = calibration.activate(tf.constant(logits)).numpy()
    assert (probabilities >= thresholds).all()
    well_below = calibration.activate(tf.constant(logits - 0.01)).numpy()
    middle = np.abs(logits) < 5
    assert (well_below < thresholds)[middle].all()
