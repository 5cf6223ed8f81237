"""Nearest neighbors and near-duplicates among features, against plain NumPy."""

import builtins

import numpy as np
import pytest

from data.common.errors import UserError
from data.outputs import neighbors
from data.outputs.neighbors import FeatureRows, keep_first, nearest


def test_neighbors_go_by_the_angle_and_leave_out_the_unreadable():
    values = np.array([[1, 0], [0, 2], [np.nan, np.nan], [3, 3]], np.float32)
    rows, cosines = nearest(values, np.array([[2.0, 0.1]]), 3)
    assert rows.tolist() == [[0, 3, 1]]
    expected = [2 / np.hypot(2, 0.1), 2.1 / np.hypot(2, 0.1) / 2**0.5, 0.1 / np.hypot(2, 0.1)]
    np.testing.assert_allclose(cosines[0], expected, rtol=1e-6)


def test_a_table_read_in_parts_gives_the_neighbors_of_the_whole(monkeypatch):
    rng = np.random.default_rng(0)
    values = rng.standard_normal((1000, 8))
    queries = rng.standard_normal((5, 8))
    monkeypatch.setattr(neighbors, "ROWS_AT_ONCE", 64)
    rows, cosines = nearest(values, queries, 10)
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    all_cosines = queries / np.linalg.norm(queries, axis=1, keepdims=True) @ unit.T
    np.testing.assert_array_equal(rows, np.argsort(-all_cosines, axis=1)[:, :10])
    np.testing.assert_allclose(cosines, -np.sort(-all_cosines, axis=1)[:, :10], rtol=1e-5)


def all_rows(*tables):
    return FeatureRows(tables, np.arange(sum(map(len, tables))))


def test_the_first_of_near_duplicates_is_kept_and_chains_are_not_followed():
    degrees = np.radians([0, 90, 10, 20, 0, 95])  # 20 is near 10, which is dropped, but not near 0
    values = np.stack([np.cos(degrees), np.sin(degrees)], 1)
    values = np.vstack([values, [[np.nan, np.nan], [0, 0], [0, 0]]])
    kept, cosines = keep_first(all_rows(values), np.cos(np.radians(12)))
    assert kept.tolist() == [0, 1, 0, 3, 0, 1, 6, 7, 8]
    near = np.cos(np.radians([10, 5]))
    np.testing.assert_allclose(cosines[[2, 5]], near, rtol=1e-5)
    assert cosines[[0, 1, 3, 4]].tolist() == [1, 1, 1, 1]


def planted(rows, size, repeated, seed=0):
    """Random rows, all in one direction by half as features are; some repeat an earlier one."""
    rng = np.random.default_rng(seed)
    values = np.abs(rng.standard_normal((rows, size), np.float32))
    source = rng.choice(rows // 2, repeated, replace=False)
    copy = rows // 2 + rng.choice(rows // 2, repeated, replace=False)
    values[copy] = values[source] + 0.15 * rng.standard_normal((repeated, size), np.float32)
    return values, source, copy


@pytest.mark.parametrize("library", ["numpy", "faiss"])
def test_planted_near_duplicates_are_found_on_the_sketch(monkeypatch, library):
    """In 512 numbers, all pairs by NumPy; or by cells, which find at least 98 of 100."""
    monkeypatch.setattr(neighbors, "EXHAUSTIVE_ROWS", 100)
    monkeypatch.setattr(neighbors, "QUERIES_AT_ONCE", 100)
    if library == "numpy":
        monkeypatch.setattr(builtins, "__import__", without("faiss"))
    values, source, copy = planted(3000, 512, 100)
    kept, cosines = keep_first(all_rows(values[:700], values[700:].astype(np.float16)), 0.97)
    found = kept[copy] == source
    assert found.sum() >= (100 if library == "numpy" else 98)
    assert (kept != np.arange(3000)).sum() == found.sum()
    unit = neighbors.unit_rows(values)
    expected = (unit[copy] * unit[source]).sum(1)[found]
    np.testing.assert_allclose(cosines[copy][found], expected, atol=1e-3)
    assert expected.min() < 0.99


def without(module):
    real = builtins.__import__

    def load(name, *arguments, **options):
        if name == module:
            raise ImportError(name)
        return real(name, *arguments, **options)

    return load


def test_one_image_hundreds_of_times_leaves_one(monkeypatch):
    monkeypatch.setattr(neighbors, "QUERIES_AT_ONCE", 50)
    monkeypatch.setattr(neighbors, "PAIRS_AT_ONCE", 64)
    rng = np.random.default_rng(5)
    values = rng.standard_normal((400, 300), np.float32)
    values[100:] = values[7] + 0.01 * values[100:]
    kept, _ = keep_first(all_rows(values), 0.99)
    assert kept[:100].tolist() == list(range(100)) and set(kept[100:].tolist()) == {7}


def test_a_pair_below_the_threshold_is_no_near_duplicate():
    rng = np.random.default_rng(3)
    one, other = np.linalg.qr(rng.standard_normal((256, 2)))[0].T
    values = np.stack([one, 0.949 * one + np.sqrt(1 - 0.949**2) * other])
    assert keep_first(all_rows(values), 0.95)[0].tolist() == [0, 1]
    assert keep_first(all_rows(values), 0.948)[0].tolist() == [0, 0]


def test_tables_of_different_layers_do_not_mix():
    with pytest.raises(UserError, match="2 and 3 numbers"):
        all_rows(np.ones((1, 2)), np.ones((1, 3)))
