"""models/metrics/mistakes.py: labels of images by hand, against scikit-learn, and on shards."""

import numpy as np
import pytest
from metric_cases import Threads, listed
from sklearn import metrics as sklearn_metrics

from models.distributed.base import SingleProcess
from models.metrics.labeled import labeled
from models.metrics.mistakes import ImageLabelCounter


def entries(found, row):
    """(class, positive, predicted) of the labels of an image."""
    own = found.rows == row
    columns = found.classes[own], found.positive[own], found.predicted[own]
    return [(c, bool(p), bool(q)) for c, p, q in zip(*map(list, columns), strict=True)]


def test_labels_of_images_with_several_by_hand():
    counter = ImageLabelCounter(5, 2, np.full(5, 0.5, "f4"))
    scores = np.array([[0.9, 0.2, 0.8, 0.7, 0.1], [0.1, 0.3, 0.99, 0.2, 0.4]], "f4")
    labels = np.array([[1, 1, 0, 0, 0], [0, 1, -1, 0, 0]], "f4")  # -1: unknown
    found = counter.update(labeled(5, scores, *listed(labels)))
    # Class 3 of the first image reaches the threshold, but is not among its two best.
    assert entries(found, 0) == [(0, True, True), (2, False, True), (1, True, False)]
    assert entries(found, 1) == [(4, False, False), (1, True, False)]
    expected = [np.log([0.9, 0.2, 0.2, 0.3, 0.9]), np.log([0.9, 0.3, 0.8, 0.6])]
    np.testing.assert_allclose(found.losses, [-logs.sum() for logs in expected], rtol=1e-6)
    statistics = counter.measure(SingleProcess())
    assert statistics.confusions.tolist() == [[1, 2, 1]]
    np.testing.assert_allclose(statistics.present, [0.9, 0.25, *[np.nan] * 3], atol=1e-7)
    np.testing.assert_allclose(statistics.absent, [0.1, np.nan, 0.8, 0.45, 0.25], atol=1e-7)


def single_case():
    rng = np.random.default_rng(5)
    scores = rng.dirichlet(np.ones(6), size=40).astype("f4")
    return scores, rng.integers(0, 6, 40)


def test_confusions_of_single_labels_equal_scikit_learn():
    scores, truth = single_case()
    counter = ImageLabelCounter(6, 3)
    found = counter.update(labeled(6, scores, *listed(np.eye(6)[truth])))
    assert found.losses.mean() == pytest.approx(sklearn_metrics.log_loss(truth, scores), abs=1e-6)
    assert found.predicted.sum() == len(scores)
    matrix = sklearn_metrics.confusion_matrix(truth, scores.argmax(axis=1))
    np.fill_diagonal(matrix, 0)
    confusions = counter.measure(SingleProcess()).confusions
    assert sorted(confusions[:, 2], reverse=True) == confusions[:, 2].tolist()
    counted = np.zeros_like(matrix)
    counted[confusions[:, 0], confusions[:, 1]] = confusions[:, 2]
    np.testing.assert_array_equal(counted, matrix)


def test_shards_give_the_same_statistics():
    scores, truth = single_case()

    def job(worker, rank):
        counter = ImageLabelCounter(6, 3, np.full(6, 0.2, "f4"))
        part = slice(rank, None, worker.size)
        counter.update(labeled(6, scores[part], *listed(np.eye(6)[truth[part]])))
        return [column.tolist() for column in counter.measure(worker)]

    [whole] = Threads(1).run(job)
    assert len(whole[0]) > 5
    assert Threads(3).run(job) == [whole] * 3


def test_pairs_are_merged_while_they_come(monkeypatch):
    monkeypatch.setattr("models.metrics.accumulators.PENDING_PAIRS", 3)
    scores, truth = single_case()
    confusions = []
    for size in (40, 2):
        counter = ImageLabelCounter(6, 3)
        for start in range(0, 40, size):
            part = slice(start, start + size)
            counter.update(labeled(6, scores[part], *listed(np.eye(6)[truth[part]])))
        confusions.append(counter.measure(SingleProcess()).confusions.tolist())
    assert confusions[0] == confusions[1]
