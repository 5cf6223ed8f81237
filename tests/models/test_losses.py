"""The losses against hand-made numbers, a NumPy re-computation and finite differences."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import flags
from data.common.errors import UserError
from data.input.pipeline import Batch
from models import losses
from models.distributed.base import SingleProcess
from models.losses import LOSSES, ClassWeightOptions, Counters
from models.training.objectives import ClassWeights, Objective

RECIPE = ClassWeightOptions(neg_select=0.1)
ASYMMETRIC = {"gamma_negative": 4.0, "gamma_positive": 1.0, "probability_shift": 0.05}


def multi_label(classes, options=RECIPE, seed=0):
    return Objective("multi_label", ClassWeights(classes, options, seed), positive_weight=12.0)


def bce(positive_weight=1.0):
    return Objective("bce", positive_weight=positive_weight)


def asymmetric(**numbers):
    return Objective("asymmetric", **{**ASYMMETRIC, **numbers})


def softmax(label_smoothing=0.0):
    return Objective("softmax", label_smoothing=label_smoothing)


def of_labels(index, value):
    """A step of one micro-batch with these labels."""
    return Batch(tf.zeros([len(index), 1, 1, 3]), index, value, index, value)


def random_labels(rng, batch, classes):
    """Dense soft labels with about a tenth of unknown (-1) and a fifth of other entries."""
    values = [0.0, 0.5, 0.7, 1.0, -1.0]
    return rng.choice(values, size=(batch, classes), p=[0.7, 0.1, 0.05, 0.05, 0.1]).astype("f4")


def numpy_cross_entropy(logits, labels, positive_weight=12.0):
    cost = (1 - labels) * logits + (1 + (positive_weight - 1) * labels) * (
        np.log1p(np.exp(-np.abs(logits))) + np.maximum(-logits, 0)
    )
    return np.where(labels == -1, 0.0, cost)


def numpy_step(logits, labels, kept, positive, negative):
    """Spec section 3, steps 1 to 6, one class at a time: (loss, positive, negative)."""
    positive, negative, loss = positive.copy(), negative.copy(), 0.0
    for c in range(labels.shape[1]):
        if max(labels[:, c]) >= np.float32(0.7):
            positive[c], negative[c] = positive[c] + 1, 0
            weight = max(-np.log10((0.01 + positive[c]) / 10), 0.01)
        else:
            positive[c] = 0
            negative[c] += kept[c]
            weight = -np.log10((8 + negative[c]) / 10)
            weight = (weight if weight > 0.01 else 0.001) * kept[c]
        loss += weight * numpy_cross_entropy(logits[:, c], labels[:, c]).mean()
    return loss, positive, negative


def weight_of(positive=0.0, negative=0.0, is_positive=True, kept=True, options=RECIPE):
    counters = Counters(tf.constant([positive]), tf.constant([negative]))
    mask, kept = tf.constant([is_positive]), tf.constant([kept])
    return losses.class_weights(mask, kept, counters, options).numpy()[0]


@pytest.mark.parametrize(
    ("batches", "weight"), [(1, 0.9957), (2, 0.6968), (3, 0.5215), (5, 0.3002), (10, 0.01)]
)
def test_positive_weights_of_the_spec(batches, weight):
    assert weight_of(positive=float(batches)) == pytest.approx(weight, abs=1e-4)


@pytest.mark.parametrize(("batches", "weight"), [(1, 0.0458), (2, 0.001), (3, 0.001), (50, 0.001)])
def test_negative_weights_of_the_spec(batches, weight):
    found = weight_of(negative=float(batches), is_positive=False)
    assert found == pytest.approx(weight, abs=5e-5)


def test_released_negative_floor_is_a_tenth_of_the_papers():
    paper = dataclasses.replace(RECIPE, negative_floor=0.01)
    assert weight_of(negative=9.0, is_positive=False) == np.float32(0.001)
    assert weight_of(negative=9.0, is_positive=False, options=paper) == np.float32(0.01)
    # -log10(0.98) is above 0, but not above the cutoff of 0.01.
    other = dataclasses.replace(RECIPE, negative_offset=7.8)
    assert weight_of(negative=2.0, is_positive=False, options=other) == np.float32(0.001)


def test_negative_class_that_is_not_kept_weighs_nothing_and_keeps_its_count():
    mask = tf.constant([False, False, True, True])
    kept = tf.constant([True, False, True, False])
    before = Counters(tf.constant([4.0, 4.0, 4.0, 4.0]), tf.constant([5.0, 5.0, 5.0, 5.0]))
    after = losses.update_counters(mask, kept, before)
    np.testing.assert_array_equal(after.positive, [0, 0, 5, 5])
    np.testing.assert_array_equal(after.negative, [6, 5, 0, 0])
    weights = losses.class_weights(mask, kept, after, RECIPE)
    np.testing.assert_allclose(weights, [0.001, 0, 0.3002, 0.3002], atol=5e-5)


def test_positive_mask_needs_one_label_at_the_threshold():
    labels = np.array([[0.0, 0.69, 0.7, -1, 0], [0, 0, 0, 1.0, -1]], "f4")
    mask = losses.positive_mask(*losses.sparse_from_dense(labels), 5, 0.7)
    np.testing.assert_array_equal(mask, [False, False, True, True, False])


def test_negative_draw_is_a_function_of_seed_and_step():
    draws = [losses.negative_draw(7, step, 4000, 0.1).numpy() for step in (0, 1, 0)]
    np.testing.assert_array_equal(draws[0], draws[2])
    assert (draws[0] != draws[1]).any()
    assert 0.08 < draws[0].mean() < 0.12
    # Pinned: a change of generator would break the exact resume of running jobs.
    np.testing.assert_array_equal(np.flatnonzero(draws[0])[:5], [2, 4, 15, 16, 47])


@pytest.mark.slow
def test_thirty_batches_equal_numpy():
    rng = np.random.default_rng(0)
    options = dataclasses.replace(RECIPE, neg_select=0.3)
    objective = multi_label(20, options, seed=3)
    positive, negative, longest = np.zeros(20), np.zeros(20), np.zeros(2)

    @tf.function(reduce_retracing=True)
    def step_loss(logits, index, value, step):
        weights = objective.begin_step(of_labels(index, value), step, SingleProcess())
        return objective.loss_of(logits, index, value, weights)

    for step in range(30):
        labels = random_labels(rng, 4, 20)
        labels[:, step % 20] = -1
        labels[:, 15:] *= step % 8 == 7  # classes that are negative for long
        logits = rng.normal(0, 3, labels.shape).astype("f4")
        kept = losses.negative_draw(3, step, 20, 0.3).numpy()
        index, value = losses.sparse_from_dense(labels)
        found = step_loss(logits, index, value, tf.constant(step, tf.int64))
        expected, positive, negative = numpy_step(logits, labels, kept, positive, negative)
        assert found.numpy() == pytest.approx(expected, rel=1e-5)
        np.testing.assert_array_equal(objective.state["Variable"], positive)
        np.testing.assert_array_equal(objective.state["Variable_1"], negative)
        longest = np.maximum(longest, [positive.max(), negative.max()])
    assert longest.min() > 2


@pytest.mark.parametrize(
    "loss",
    [
        lambda *args: losses.sigmoid_loss(*args, tf.range(1.0, 8.0), 12.0),
        lambda *args: losses.asymmetric_loss(*args, **ASYMMETRIC),
        lambda *args: losses.asymmetric_loss(
            *args, gamma_negative=2.0, gamma_positive=1.0, probability_shift=0.0
        ),
        lambda *args: losses.softmax_loss(*args, label_smoothing=0.1),
    ],
)
def test_gradients_equal_finite_differences(loss):
    rng = np.random.default_rng(1)
    labels = random_labels(rng, 3, 7)
    labels[0, 0], labels[1, 1] = 1.0, -1.0
    index, value = losses.sparse_from_dense(labels)
    logits = tf.constant(rng.normal(0, 2, labels.shape))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        total = 3.0 * loss(logits, index, value)  # as loss scaling multiplies it
    found = tape.gradient(total, logits).numpy() / 3.0
    small = 1e-6
    for place in np.ndindex(*labels.shape):
        shift = np.zeros(labels.shape)
        shift[place] = small
        slope = (loss(logits + shift, index, value) - loss(logits - shift, index, value)) / (
            2 * small
        )
        assert found[place] == pytest.approx(slope.numpy(), rel=1e-5, abs=1e-8), place


def test_sparse_labels_equal_the_dense_formula():
    rng = np.random.default_rng(2)
    labels = random_labels(rng, 16, 30)
    labels[3] = 0  # an image without a label
    labels[4] = -1  # an image of which nothing is known
    logits = rng.normal(0, 4, labels.shape).astype("f4")
    weights = rng.random(30).astype("f4")
    found = losses.sigmoid_loss(logits_of(logits), *losses.sparse_from_dense(labels), weights, 12.0)
    expected = numpy_cross_entropy(logits, labels).mean(axis=0) @ weights
    assert found.numpy() == pytest.approx(expected, rel=1e-5)


def logits_of(array):
    return tf.convert_to_tensor(array, tf.float32)


def test_sparse_from_dense_pads_with_minus_one():
    index, value = losses.sparse_from_dense([[0, 0.5, -1], [0, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(index, [[1, 2], [-1, -1], [0, -1]])
    np.testing.assert_array_equal(value, [[0.5, -1], [0, 0], [1, 0]])


@pytest.mark.parametrize(
    "objective",
    [
        multi_label(4),
        bce(),
        asymmetric(),
        softmax(0.1),
    ],
)
def test_extreme_logits_have_finite_loss_and_gradient(objective):
    logits = tf.constant([[1e4, -1e4, 1e4, -1e4], [-1e4, 1e4, 0.0, -1e4]])
    index, value = tf.constant([[0, 1], [0, -1]]), tf.constant([[1.0, 1.0], [1.0, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = objective.loss_of(logits, index, value)
    assert np.isfinite(loss)
    assert np.isfinite(tape.gradient(loss, logits)).all()


def test_unknown_labels_add_neither_loss_nor_gradient():
    logits = tf.constant([[2.0, 30.0, -1.0]])
    value = tf.constant([[-1.0, -1.0]])
    index = tf.constant([[1, 2]])
    for objective in (bce(), asymmetric()):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = objective.loss_of(logits, index, value)
        alone = objective.loss_of(logits[:, :1], index[:, :0], value[:, :0])
        assert loss.numpy() == pytest.approx(alone.numpy(), rel=1e-6)
        np.testing.assert_array_equal(tape.gradient(loss, logits)[0, 1:], [0, 0])


def test_bce_of_zero_logits_is_log_two_a_class():
    index, value = tf.constant([[1]]), tf.constant([[1.0]])
    assert bce().loss_of(tf.zeros([1, 3]), index, value).numpy() == pytest.approx(3 * np.log(2))
    weighted = bce(positive_weight=5.0).loss_of(tf.zeros([1, 3]), index, value)
    assert weighted.numpy() == pytest.approx(7 * np.log(2))


def test_asymmetric_loss_by_hand():
    # p = 0.5: positive 0.5 ln 2; negative p_m = 0.45, -(0.45^4) ln(0.55).
    index, value = tf.constant([[0]]), tf.constant([[1.0]])
    found = asymmetric().loss_of(tf.zeros([1, 2]), index, value)
    assert found.numpy() == pytest.approx(0.5 * np.log(2) - 0.45**4 * np.log(0.55), rel=1e-6)
    # A negative below the clip, p = 0.0474, costs nothing at all.
    easy = asymmetric().loss_of(tf.constant([[-3.0]]), index[:, :0], value[:, :0])
    assert easy.numpy() == 0


def test_softmax_by_hand():
    logits = tf.math.log([[1.0, 2.0, 5.0]])
    label = tf.constant([[1]]), tf.constant([[1.0]])
    assert softmax().loss_of(logits, *label).numpy() == pytest.approx(-np.log(0.25))
    smooth = softmax(label_smoothing=0.3).loss_of(logits, *label)
    expected = -0.8 * np.log(0.25) - 0.1 * np.log(0.125) - 0.1 * np.log(0.625)
    assert smooth.numpy() == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(softmax().probabilities(logits), [[0.125, 0.25, 0.625]])


def test_softmax_refuses_several_labels():
    objective = softmax()
    objective.check(of_labels(tf.constant([[4, -1], [2, -1]]), tf.constant([[1.0, 0.0], [1, 0]])))
    with pytest.raises(UserError, match="exactly one label per image, but one has 2"):
        objective.check(
            of_labels(tf.constant([[2, -1], [4, 1]]), tf.constant([[1.0, 0.0], [1, 1]]))
        )


def test_mixed_labels_are_the_weighted_sum():
    labels = np.array([[1, 0, -1, 0.5], [0, 0, 1, 1], [0, 0, 0, 0]], "f4")
    index, value = losses.sparse_from_dense(labels)
    order = np.array([1, 2, 0])
    mixed_index, mixed_value = losses.mix_labels(index, value, tf.constant(order), 0.75)
    expected = 0.75 * labels + 0.25 * labels[order]
    expected[(labels == -1) | (labels[order] == -1)] = -1
    dense = np.zeros_like(labels)
    for row, column in np.argwhere(mixed_index.numpy() >= 0):
        dense[row, mixed_index[row, column]] += mixed_value[row, column]
    np.testing.assert_allclose(dense, expected)


def test_local_statistics_ask_no_other_worker():
    class Others(SingleProcess):
        def any_positive(self, mask):
            return tf.ones_like(mask)

    index, value = tf.constant([[1]]), tf.constant([[1.0]])
    positives = {}
    for statistics in ("global", "local"):
        options = ClassWeightOptions(loss_statistics=statistics)
        objective = multi_label(3, options)
        objective.begin_step(of_labels(index, value), tf.constant(0, tf.int64), Others())
        positives[statistics] = objective.state["Variable"].numpy().tolist()
    assert positives == {"global": [1, 1, 1], "local": [0, 1, 0]}


@pytest.mark.parametrize(
    ("logits", "index", "value", "message"),
    [
        ((4,), (4, 2), (4, 2), "logits must be"),
        ((4, 9), (4,), (4, 2), "label_index must be"),
        ((4, 9), (3, 2), (3, 2), "label_index must be"),
        ((4, 9), (4, 2), (4, 3), "differ in shape"),
    ],
)
def test_wrong_shapes_are_refused(logits, index, value, message):
    with pytest.raises(UserError, match=message):
        losses.sigmoid_loss(tf.zeros(logits), tf.zeros(index, tf.int32), tf.zeros(value))


def test_dense_labels_given_as_index_are_refused():
    with pytest.raises(UserError, match="integers"):
        losses.sigmoid_loss(tf.zeros([4, 9]), tf.zeros([4, 9]), tf.zeros([4, 9]))


@pytest.mark.parametrize(
    "options", [{"neg_select": 1.5}, {"loss_statistics": "globle"}, {"negative_offset": 0.0}]
)
def test_wrong_options_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        ClassWeightOptions(**options)


def test_wrong_objective_options_are_refused():
    with pytest.raises(UserError, match="label_smoothing"):
        softmax(1.0)
    with pytest.raises(UserError, match="probability_shift"):
        asymmetric(probability_shift=1.0)
    with pytest.raises(UserError, match="gammas"):
        asymmetric(gamma_negative=-1.0)
    with pytest.raises(UserError, match="positive_weight"):
        bce(0.0)


def test_every_number_of_a_loss_is_a_flag():
    assert {name for loss in LOSSES.values() for name in loss.numbers()} <= set(flags.FLAGS)
