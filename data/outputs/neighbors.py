"""Neighbors among features, by cosine: the nearest of a query, and near-duplicates of millions."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence

import numpy as np

from data.common.errors import UserError
from data.common.progress import Progress

ROWS_AT_ONCE = 1 << 14
"""Rows of a table that are read and compared at once."""

QUERIES_AT_ONCE = 1 << 10
PAIRS_AT_ONCE = 1 << 12
SKETCH_SIZE = 128
SKETCH_MARGIN = 5.0
"""Standard deviations by which the sketch's distance of a pair may exceed its expected value."""

EXHAUSTIVE_ROWS = 20_000
"""Up to here all pairs are compared; for more rows, if faiss is installed, those of near cells."""

CELLS_PROBED = 32
ROUNDING = 1e-6
"""Cosines of equal rows differ from 1 by less than this."""

Search = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def unit_rows(values: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, float32 [N, D]; a row of zeros becomes NaN."""
    values = np.asarray(values, np.float32)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(lengths > 0, lengths, np.nan)


def nearest(values: np.ndarray, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` rows with the largest cosine to each query, nearest first.

    Rows of NaN (unreadable images) come last; of equals, the earlier row comes first. `values` is
    read once, ROWS_AT_ONCE rows at a time.

    Args:
      values: float [N, D].
      queries: float [Q, D].

    Returns:
      rows int64 [Q, K] and cosines float32 [Q, K]; K is `count`, or all rows if they are fewer.

    Raises:
      UserError: the queries have another number of features.
    """
    if queries.shape[1] != values.shape[1]:
        raise UserError(f"queries have {queries.shape[1]} numbers, the features {values.shape[1]}")
    queries = unit_rows(queries)
    rows = np.zeros((len(queries), 0), np.int64)
    cosines = np.zeros((len(queries), 0), np.float32)
    for start in range(0, len(values), ROWS_AT_ONCE):
        block = unit_rows(values[start : start + ROWS_AT_ONCE])
        found = np.nan_to_num(queries @ block.T, nan=-np.inf)
        numbers = np.broadcast_to(np.arange(start, start + len(block)), found.shape)
        rows, cosines = np.hstack([rows, numbers]), np.hstack([cosines, found])
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        rows, cosines = (np.take_along_axis(x, best, 1) for x in (rows, cosines))
    return rows, cosines


class FeatureRows:
    """Chosen rows of several tables in an order of their own, read when they are taken.

    Args:
      tables: arrays [N, D] of one D; may be memory-mapped.
      numbers: int64, the chosen rows, counted through the tables in order.

    Raises:
      UserError: the tables have different numbers of features.
    """

    def __init__(self, tables: Sequence[np.ndarray], numbers: np.ndarray) -> None:
        sizes = {table.shape[1] for table in tables}
        if len(sizes) > 1:
            raise UserError(f"features of {' and '.join(map(str, sorted(sizes)))} numbers: use one")
        self._tables, self._numbers = tables, numbers
        self._ends = np.cumsum([len(table) for table in tables])
        self.size = sizes.pop()

    def __len__(self) -> int:
        return len(self._numbers)

    def take(self, which: np.ndarray | slice) -> np.ndarray:
        """These rows as unit vectors, float32 [n, D]."""
        numbers = self._numbers[which]
        table_of = np.searchsorted(self._ends, numbers, side="right")
        values = np.empty((len(numbers), self.size), np.float32)
        for t in np.unique(table_of).tolist():
            own = table_of == t
            values[own] = self._tables[t][numbers[own] - self._ends[t] + len(self._tables[t])]
        return unit_rows(values)


def keep_first(rows: FeatureRows, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Keeps each row that is not a near-duplicate of one kept before it.

    Pairs are found on a sketch of SKETCH_SIZE numbers (see `_sketch`): all pairs, or with faiss
    those in neighboring cells of it; the cosine of each is then computed from all features. Memory:
    512 bytes a row for the sketch, and as much again for faiss' copy.

    Args:
      threshold: rows with this cosine or a larger one are near-duplicates.

    Returns:
      kept int64 [N], the kept row that each row repeats, itself where it is kept; and the cosine of
      the two, float32 [N]. Rows of NaN or zeros are kept.
    """
    sketch, limit = _sketch(rows, threshold)
    readable = np.flatnonzero(np.isfinite(sketch).all(1))
    search = _search(sketch[readable], limit)
    kept, cosines = np.arange(len(rows)), np.ones(len(rows), np.float32)
    with Progress("near-duplicates", len(readable), "image") as progress:
        for start in range(0, len(readable), QUERIES_AT_ONCE):
            block = np.arange(start, min(start + QUERIES_AT_ONCE, len(readable)))
            asked = block[kept[readable[block]] == readable[block]]
            if len(asked):
                pairs = (readable[numbers] for numbers in search(asked))
                _drop(kept, cosines, _near_pairs(rows, threshold, kept, *pairs))
            progress.update(len(block))
    return kept, cosines


def _sketch(rows: FeatureRows, threshold: float) -> tuple[np.ndarray, float]:
    """A random projection of the unit vectors, and the squared distance of a near-duplicate in it.

    Of the squared distance of two rows, 2 - 2 cosine, a projection on S of D random orthogonal axes
    keeps S/D on average, with a relative standard deviation of sqrt(2/S). The limit lies
    SKETCH_MARGIN of them above, so that less than one in 10,000 pairs at the threshold is lost.
    """
    size, distance = rows.size, 2.0 * (1.0 - threshold) + ROUNDING
    if size <= SKETCH_SIZE:
        basis, limit = np.eye(size, dtype=np.float32), distance + ROUNDING
    else:
        rng = np.random.default_rng(0)
        basis = np.linalg.qr(rng.standard_normal((size, SKETCH_SIZE)))[0].astype(np.float32)
        margin = 1.0 + SKETCH_MARGIN * math.sqrt(2.0 / SKETCH_SIZE)
        limit = distance * SKETCH_SIZE / size * margin
    sketch = np.empty((len(rows), basis.shape[1]), np.float32)
    with Progress("reading features", len(rows), "image") as progress:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            block = rows.take(slice(start, start + ROWS_AT_ONCE))
            sketch[start : start + len(block)] = block @ basis
            progress.update(len(block))
    return sketch, limit


def _search(sketch: np.ndarray, limit: float) -> Search:
    """What finds, for some rows of the sketch, those within the squared distance `limit`.

    It returns pairs: the asking row and a found one, int64 [P] each.
    """
    if len(sketch) > EXHAUSTIVE_ROWS:
        try:
            return _search_cells(sketch, limit)
        except ImportError:
            print(
                f"comparing all pairs of {len(sketch):,} images; pip install faiss-cpu for a"
                " faster search",
                file=sys.stderr,
            )
    return _search_all(sketch, limit)


def _search_all(sketch: np.ndarray, limit: float) -> Search:
    """Compares with all later rows: a pair is found when its earlier row asks."""
    ones = np.ones((len(sketch), 1), np.float32)
    half = -0.5 * np.square(sketch).sum(1, keepdims=True)
    # The product of these is minus half of the squared distance.
    queries, points = np.hstack([sketch, ones, half]), np.hstack([sketch, half, ones])

    def search(asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asking, found = [], []
        for start in range(int(asked[0]), len(points), ROWS_AT_ONCE):
            near = queries[asked] @ points[start : start + ROWS_AT_ONCE].T >= -0.5 * limit
            row, column = np.nonzero(near)
            asking.append(asked[row])
            found.append(column + start)
        return np.concatenate(asking), np.concatenate(found)

    return search


def _search_cells(sketch: np.ndarray, limit: float) -> Search:
    """Compares with the rows of the CELLS_PROBED nearest cells: an inverted file of faiss."""
    import faiss  # an extra

    cells, size = int(4 * math.sqrt(len(sketch))), sketch.shape[1]
    centers = faiss.IndexFlatL2(size)
    index = faiss.IndexIVFFlat(centers, size, cells)
    index.cp.niter, index.cp.max_points_per_centroid = 10, 64
    index.train(sketch)
    index.add(sketch)
    index.nprobe = CELLS_PROBED

    def search(asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ends, _, found = index.range_search(sketch[asked], limit)
        return np.repeat(asked, np.diff(ends.astype(np.int64))), found

    return search


def _near_pairs(
    rows: FeatureRows, threshold: float, kept: np.ndarray, asking: np.ndarray, found: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of candidate pairs, those whose cosine reaches the threshold, with it; without dropped rows.

    In the order of the asking row, then of the found one.
    """
    possible = (asking != found) & (kept[found] == found)
    asking, found = asking[possible], found[possible]
    order = np.lexsort((found, asking))
    asking, found = asking[order], found[order]
    cosines = np.empty(len(asking), np.float32)
    for start in range(0, len(asking), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        cosines[part] = np.einsum("nd,nd->n", rows.take(asking[part]), rows.take(found[part]))
    near = cosines >= threshold - ROUNDING
    return asking[near], found[near], cosines[near]


def _drop(kept: np.ndarray, cosines: np.ndarray, pairs: tuple[np.ndarray, ...]) -> None:
    """Drops the later row of each pair of rows that are both kept so far, in order."""
    for asking, found, cosine in zip(*(column.tolist() for column in pairs), strict=True):
        if kept[asking] == asking and kept[found] == found:
            first, later = sorted((asking, found))
            kept[later], cosines[later] = first, min(cosine, 1.0)
