"""The metrics against scikit-learn, hand-worked numbers, and themselves on shards."""

import numpy as np
import pytest
from metric_cases import Threads, listed
from sklearn import metrics as sklearn_metrics

from data.common.errors import UserError
from models.distributed.base import SingleProcess
from models.metrics import accumulators, counts, definitions
from models.metrics.accumulators import (
    FIXED_POINT,
    NOBODY,
    ExactSums,
    HardestExamples,
    ScoreStore,
)
from models.metrics.evaluators import (
    MultiLabelEvaluator,
    MultiLabelOptions,
    SingleLabelEvaluator,
)
from models.metrics.labeled import labeled


def evaluate(scores, labels, batch=7, **options):
    evaluator = MultiLabelEvaluator(scores.shape[1], options=MultiLabelOptions(**options))
    for start in range(0, len(scores), batch):
        part = slice(start, start + batch)
        evaluator.update(scores[part], *listed(labels[part]))
    return evaluator.measure()


def summary_of(scores, labels, **options):
    return definitions.compute_all(evaluate(scores, labels, **options))


def case(name):
    """(scores, labels) of a random or adversarial case; labels are 0, 1 or -1 (unknown)."""
    rng = np.random.default_rng(len(name))
    scores = rng.random((60, 12)).astype("f4")
    labels = (rng.random(scores.shape) < 0.2).astype("f4")
    if name == "ties":
        scores = np.round(scores * 3) / 3
    elif name == "all tied":
        scores[:] = 0.5
    elif name == "no positives":
        labels[:, :5] = 0
        labels[:20] = 0
    elif name == "all positives":
        labels[:, :3] = 1
        labels[:10] = 1
    elif name == "unknowns":
        labels[rng.random(scores.shape) < 0.3] = -1
        labels[3], labels[:, 4] = -1, -1
        scores = np.round(scores * 10) / 10
    return scores.astype("f4"), labels


CASES = ["random", "ties", "all tied", "no positives", "all positives", "unknowns"]


def known_parts(scores, labels):
    """Pairs of (labels, scores) of each ranking, without what is unknown."""
    return [(y[y >= 0], s[y >= 0]) for s, y in zip(scores, labels, strict=True)]


@pytest.mark.parametrize("name", CASES)
def test_average_precision_equals_scikit_learn(name):
    scores, labels = case(name)
    metrics = evaluate(scores, labels)
    expected = np.array(
        [
            sklearn_metrics.average_precision_score(y, s) if (y > 0).any() else np.nan
            for y, s in known_parts(scores.T, labels.T)
        ]
    )
    np.testing.assert_allclose(metrics.average_precisions, expected, atol=1e-12)
    by_hand = [counts.average_precision(s, y) for s, y in zip(scores.T, labels.T, strict=True)]
    np.testing.assert_allclose(by_hand, expected, atol=1e-12)
    supported = (labels > 0).any(axis=0)
    summary, used = definitions.compute_all(metrics), (labels >= 0) & supported
    micro = sklearn_metrics.average_precision_score(labels[used], scores[used])
    weights = (labels > 0).sum(axis=0)[supported]
    assert summary["map_macro"] == pytest.approx(expected[supported].mean(), abs=1e-12)
    assert summary["map_micro"] == pytest.approx(micro, abs=1e-12)
    weighted = np.average(expected[supported], weights=weights)
    assert summary["map_weighted"] == pytest.approx(weighted, abs=1e-12)
    assert summary["supported_classes"] == supported.sum()


@pytest.mark.parametrize("name", CASES)
def test_image_rankings_equal_scikit_learn(name):
    scores, labels = case(name)
    summary = summary_of(scores, labels)
    # In float32 its ranks, and so its results, have seven digits: SciPy 1.18 keeps the type.
    scores = scores.astype(np.float64)
    for ours, theirs in [
        ("coverage", sklearn_metrics.coverage_error),
        ("ranking_loss", sklearn_metrics.label_ranking_loss),
        ("label_ranking_ap", sklearn_metrics.label_ranking_average_precision_score),
    ]:
        values = []
        for y, s in known_parts(scores, labels):
            trivial = len(np.unique(y)) < 2  # scikit-learn refuses these when alone: its own values
            empty = {"coverage": len(y) if y.any() else 0, "label_ranking_ap": 1}.get(ours, 0)
            values.append(empty if trivial else theirs([y], [s]))
        assert summary[ours] == pytest.approx(np.mean(values), abs=1e-8), ours
        if name != "unknowns":
            assert summary[ours] == pytest.approx(theirs(labels, scores), abs=1e-8), ours


@pytest.mark.parametrize("name", CASES)
def test_threshold_metrics_equal_scikit_learn(name):
    scores, labels = case(name)
    summary = summary_of(scores, labels, threshold=0.6)
    supported, known = (labels > 0).any(axis=0), labels >= 0
    truth, predicted = labels > 0, (scores >= 0.6) & known
    for ours, theirs in [
        ("precision", sklearn_metrics.precision_score),
        ("recall", sklearn_metrics.recall_score),
        ("f1", sklearn_metrics.f1_score),
    ]:
        for average in ("macro", "micro"):
            expected = theirs(
                truth[:, supported], predicted[:, supported], average=average, zero_division=0
            )
            assert summary[f"{average}_{ours}"] == pytest.approx(expected, abs=1e-12)
        rows = truth.any(axis=1)
        expected = theirs(truth[rows], predicted[rows], average="samples", zero_division=0)
        assert summary[f"{ours}_at_threshold"] == pytest.approx(expected, abs=1e-8)
    used = known & supported
    assert summary["hamming"] == pytest.approx((truth != predicted)[used].mean(), abs=1e-12)


def test_precision_and_recall_at_k_by_hand():
    scores = np.array([[0.9, 0.8, 0.7, 0.6], [0.1, 0.2, 0.3, 0.4]], "f4")
    labels = np.array([[1, 0, 1, 1], [1, 0, 0, 0]], "f4")
    summary = summary_of(scores, labels, top=(1, 2, 9))
    assert summary["precision_at_1"] == pytest.approx((1 + 0) / 2)
    assert summary["recall_at_1"] == pytest.approx((1 / 3 + 0) / 2)
    assert summary["f1_at_1"] == pytest.approx((2 / 4 + 0) / 2)
    assert summary["precision_at_2"] == pytest.approx((1 / 2 + 0) / 2)
    assert summary["recall_at_2"] == pytest.approx((1 / 3 + 0) / 2)
    # k beyond the classes: every class is predicted.
    assert summary["precision_at_9"] == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert summary["recall_at_9"] == pytest.approx(1)
    assert summary["one_error"] == pytest.approx(1 / 2)


def test_ties_at_k_go_to_the_lower_class():
    scores = np.array([[0.5, 0.5, 0.5, 0.5]], "f4")
    for wanted, hit in [(0, 1.0), (1, 1.0), (2, 0.0), (3, 0.0)]:
        labels = np.eye(4, dtype="f4")[[wanted]]
        assert summary_of(scores, labels, top=(2,))["recall_at_2"] == hit
    rows, classes, places = counts.top_classes(scores, 2)
    assert (rows.tolist(), classes.tolist(), places.tolist()) == ([0, 0], [0, 1], [0, 1])


def test_unknown_classes_take_no_place_in_the_ranking():
    scores = np.array([[0.9, 0.8, 0.1]], "f4")
    labels = np.array([[-1, 1, 0]], "f4")
    summary = summary_of(scores, labels, top=(1, 3))
    assert summary["precision_at_1"] == 1
    assert summary["precision_at_3"] == 0.5  # only two classes are known
    assert summary["one_error"] == 0


def test_images_without_a_positive_count_only_where_defined():
    scores = np.array([[0.9, 0.1], [0.9, 0.1]], "f4")
    labels = np.array([[1, 0], [0, 0]], "f4")
    summary = summary_of(scores, labels, top=(1,))
    assert (summary["images"], summary["images_with_positive"]) == (2, 1)
    assert summary["precision_at_1"] == summary["recall_at_1"] == 1
    assert summary["coverage"] == 0.5


def test_confidence_below_the_positive_threshold_is_negative():
    scores, labels = np.array([[0.9, 0.8]], "f4"), np.array([[0.4, 0.5]], "f4")
    metrics = evaluate(scores, labels)
    np.testing.assert_array_equal(metrics.counts.positives, [0, 1])
    np.testing.assert_array_equal(metrics.counts.known, [1, 1])


# A tree: 0 thing -> 1 animal -> 2 dog, 3 cat; 4 matter -> 5 water.
PARENTS = np.array([-1, 0, 1, 1, -1, 4])


def test_hierarchical_metrics_count_ancestors():
    scores = np.array([[0.1, 0.1, 0.2, 0.9, 0.1, 0.0]], "f4")
    labels = np.array([[0, 0, 1, 0, 0, 0]], "f4")
    # Predicted {cat, animal, thing}, true {dog, animal, thing}: two in common.
    summary = summary_of(scores, labels, top=(1,), parents=PARENTS)
    assert summary["precision_at_1"] == 0
    assert summary["hierarchical_precision_at_1"] == pytest.approx(2 / 3)
    assert summary["hierarchical_recall_at_1"] == pytest.approx(2 / 3)
    labels[0, 1] = -1  # animal unknown: {cat, thing} and {dog, thing}
    summary = summary_of(scores, labels, top=(1,), parents=PARENTS)
    assert summary["hierarchical_f1_at_1"] == pytest.approx(1 / 2)


def test_ancestor_table_refuses_loops_and_strangers():
    assert counts.ancestor_table(PARENTS)[2].tolist() == [2, 1, 0]
    with pytest.raises(UserError, match="loop"):
        counts.ancestor_table([1, 0])
    with pytest.raises(UserError, match="parents"):
        counts.ancestor_table([-1, 7])


def test_fitted_thresholds_have_the_best_f1():
    scores, labels = case("ties")
    labels[:, 0] = 0
    metrics = evaluate(scores, labels, threshold=0.25)
    fitted = metrics.fitted_thresholds()
    assert fitted[0] == np.float32(0.25)  # no positive: the default stays
    applied = evaluate(scores, labels, threshold=fitted).class_table["f1"]
    for c in range(1, scores.shape[1]):
        best = max(
            sklearn_metrics.f1_score(labels[:, c], scores[:, c] >= t)
            for t in np.unique(scores[:, c])
        )
        assert applied[c] == pytest.approx(best), c


def test_supported_list_bounds_every_mean():
    scores, labels = case("random")
    labels[:, 2] = 0
    few = np.zeros(12, bool)
    few[[1, 2, 5]] = True
    summary = summary_of(scores, labels, supported=few)
    expected = sklearn_metrics.average_precision_score(labels[:, [1, 5]], scores[:, [1, 5]])
    assert summary["supported_classes"] == 2
    assert summary["map_macro"] == pytest.approx(expected, abs=1e-12)


def test_precision_recall_curve_passes_through_the_counts():
    scores = np.array([[0.9], [0.8], [0.7], [0.6]], "f4")
    labels = np.array([[1.0], [0], [1], [0]], "f4")
    for c in (0, None):
        recall, precision = evaluate(scores, labels).curve(c)
        np.testing.assert_allclose(recall, [0.5, 1.0])
        np.testing.assert_allclose(precision, [1.0, 2 / 3])


def test_shards_give_the_same_result_to_the_last_digit():
    scores, labels = case("unknowns")
    options = MultiLabelOptions(parents=np.array([-1, *range(11)]))

    def job(worker, rank):
        evaluator = MultiLabelEvaluator(12, worker, options)
        for start in range(rank, len(scores), worker.size):
            rows = slice(start, start + 1)
            evaluator.update(scores[rows], *listed(labels[rows]))
        return evaluator.result()

    [whole] = Threads(1).run(job)
    assert Threads(3).run(job) == [whole] * 3
    assert whole["images"] == 60


def test_single_label_shards_give_the_same_result():
    scores, labels = softmax_case()

    def job(worker, rank):
        evaluator = SingleLabelEvaluator(6, worker)
        part = slice(rank, None, worker.size)
        evaluator.update(scores[part], *listed(labels[part]))
        return evaluator.result()

    [whole] = Threads(1).run(job)
    assert Threads(3).run(job) == [whole] * 3


def softmax_case():
    rng = np.random.default_rng(5)
    scores = rng.dirichlet(np.ones(6), size=40).astype("f4")
    return scores, np.eye(6, dtype="f4")[rng.integers(0, 6, 40)]


def test_single_label_metrics_equal_scikit_learn():
    scores, labels = softmax_case()
    evaluator = SingleLabelEvaluator(6)
    evaluator.update(scores[:30], *listed(labels[:30]))
    evaluator.update(scores[30:], *listed(labels[30:]))
    metrics, truth = evaluator.measure(), labels.argmax(axis=1)
    summary = definitions.compute_all(metrics)
    for k in (1, 5):
        expected = sklearn_metrics.top_k_accuracy_score(truth, scores, k=k)
        assert summary[f"top_{k}"] == pytest.approx(expected)
        assert summary[f"top_{k}_low"] < summary[f"top_{k}"] < summary[f"top_{k}_high"]
    assert summary["loss"] == pytest.approx(sklearn_metrics.log_loss(truth, scores), abs=1e-6)


def test_tied_probabilities_rank_the_lower_class_first():
    evaluator = SingleLabelEvaluator(3, top=(1,))
    evaluator.update(np.full((3, 3), 1 / 3), np.array([[0], [1], [2]]), np.ones((3, 1)))
    np.testing.assert_array_equal(evaluator.measure().correct, [[1, 0, 0]])


def test_wilson_interval_of_the_textbook():
    # Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662.
    assert counts.wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert counts.wilson_interval(0, 0) == (0.0, 1.0)


def test_store_gives_back_columns_of_many_chunks(monkeypatch):
    monkeypatch.setattr(accumulators, "CHUNK_BYTES", 400)
    monkeypatch.setattr(accumulators, "BLOCK_BYTES", 700)
    scores = np.random.default_rng(0).random((53, 17)).astype("f4")
    store = ScoreStore(17)
    for start in range(0, 53, 5):
        store.append(scores[start : start + 5])
    store.flush()
    blocks = list(store.blocks())
    assert len(blocks) > 3
    columns = np.concatenate([store.columns(*block) for block in blocks])
    np.testing.assert_array_equal(columns, scores.T)
    store.close()


def test_exact_sums_do_not_depend_on_the_order():
    values = np.random.default_rng(1).random(1000) * 10.0 ** (np.arange(1000) % 7)
    sums = [ExactSums(), ExactSums()]
    sums[0].add({"x": values})
    for value in values[::-1]:
        sums[1].add({"x": np.array([value])})
    totals = [s.totals(("x",), SingleProcess())["x"] for s in sums]
    assert totals[0] == totals[1] == pytest.approx(values.sum(), abs=1000 / FIXED_POINT)


ONE_LABEL = np.array([[1]]), np.array([[1.0]])


@pytest.mark.parametrize(
    ("scores", "index", "value", "message"),
    [
        (np.zeros((1, 4)), *ONE_LABEL, "scores must be"),
        (np.zeros((1, 3)), np.array([[3]]), np.array([[1.0]]), "a label is class 3"),
        (np.full((1, 3), np.nan), *ONE_LABEL, "NaN"),
        (np.zeros((2, 3)), *ONE_LABEL, "do not fit"),
    ],
)
def test_wrong_input_is_refused(scores, index, value, message):
    for evaluator in (MultiLabelEvaluator(3), SingleLabelEvaluator(3)):
        with pytest.raises(UserError, match=message):
            evaluator.update(scores, index, value)


def test_several_labels_are_refused_by_top_k():
    with pytest.raises(UserError, match="exactly one label"):
        SingleLabelEvaluator(3).update(np.zeros((1, 3)), np.array([[0, 1]]), np.array([[1.0, 1.0]]))


def test_nothing_to_measure_is_refused():
    with pytest.raises(UserError, match="no image has a positive label"):
        MultiLabelEvaluator(3).measure()
    with pytest.raises(UserError, match="no image"):
        SingleLabelEvaluator(3).measure()
    with pytest.raises(UserError, match="parents has 2 entries for 3 classes"):
        MultiLabelEvaluator(3, options=MultiLabelOptions(parents=np.array([-1, 0])))


def test_hardest_examples_are_the_most_wrong_ones():
    hardest = HardestExamples(2, keep=2)
    scores = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.6]], "f4")
    index = np.array([[0, -1], [0, -1], [1, -1], [0, 1]])
    value = np.array([[1, 0], [1, 0], [1, 0], [1, -1]], "f4")
    for row in range(4):
        part = slice(row, row + 1)
        batch = labeled(2, scores[part], index[part], value[part])
        hardest.update(batch, np.array([10 + row]))
    found = hardest.sample_index
    np.testing.assert_array_equal(found["false_negatives"].T, [[10, 13], [12, NOBODY]])
    np.testing.assert_array_equal(found["false_positives"].T, [[12, NOBODY], [10, 11]])


def test_every_metric_is_found_by_its_name_in_a_result():
    several = MultiLabelEvaluator(6, options=MultiLabelOptions(parents=PARENTS))
    single = SingleLabelEvaluator(6)
    for evaluator in (several, single):
        evaluator.update(np.eye(6)[:1], np.array([[0]]), np.array([[1.0]]))
        for name in evaluator.result():
            found = definitions.find(f"ema_{name}")
            assert found.meaning and found.better in ("higher", "lower", "count"), name
    assert "hierarchical_f1_at_5" in several.result()
    assert definitions.find("precision_at_5").meaning.endswith("best 5 classes that are correct")
    assert definitions.find("f1_at_1").meaning.endswith("F1 of the best 1 classes")
    assert definitions.find("mAP") is None
    falling = {
        n
        for t in (definitions.MULTI_LABEL, definitions.SINGLE_LABEL)
        for n, m in t.items()
        if m.better == definitions.LOWER
    }
    assert falling == {"loss", "ranking_loss", "one_error", "coverage", "hamming", "ece"}
