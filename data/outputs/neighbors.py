"""Neighbors among features by cosine: nearest to a query, and near-duplicates among millions."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from data.common.errors import UserError
from data.common.parallel import cores, map_ahead
from data.common.progress import Progress

ROWS_AT_ONCE = 1 << 14
"""Number of rows of a table that are read and compared at once."""

QUERIES_AT_ONCE = 1 << 14
ROWS_COMPARED = 1 << 10
PAIRS_AT_ONCE = 1 << 12
SKETCH_SIZE = 128
SKETCH_MARGIN = 5.0
"""Standard deviations by which a pair's distance in the sketch may exceed its expected value."""

EXHAUSTIVE_ROWS = 20_000
"""Above this many rows, faiss, if installed, limits the comparison to pairs in nearby cells."""

CELLS_PROBED = 40
ROUNDING = 1e-6
"""Cosines of equal rows differ from 1 by less than this."""

Search = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def unit_rows(values: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, float32 [N, D]; a row of zeros becomes NaN."""
    values = np.asarray(values, np.float32)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(lengths > 0, lengths, np.nan)


def nearest(values: np.ndarray, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` rows with the largest cosine to each query, nearest first.

    Rows of NaN (unreadable images) come last; ties are sorted by row. `values` is read once,
    ROWS_AT_ONCE rows at a time.

    Args:
      values: float [N, D].
      queries: float [Q, D].

    Returns:
      rows int64 [Q, K] and cosines float32 [Q, K]; K is the smaller of `count` and N.

    Raises:
      UserError: queries and values have different numbers of features.
    """
    if queries.shape[1] != values.shape[1]:
        raise UserError(f"queries have {queries.shape[1]} numbers, features have {values.shape[1]}")
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
    """Chosen rows of several tables in any order, read when needed.

    Args:
      tables: arrays [N, D] with the same D; may be memory-mapped.
      numbers: int64, the chosen rows, numbered across the tables in order.

    Raises:
      UserError: the tables have different numbers of features.
    """

    def __init__(self, tables: Sequence[np.ndarray], numbers: np.ndarray) -> None:
        sizes = {table.shape[1] for table in tables}
        if len(sizes) > 1:
            lengths = " and ".join(map(str, sorted(sizes)))
            raise UserError(f"features have {lengths} numbers: give tables of one length")
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
    """Keeps each row that is not a near-duplicate of a row kept before it.

    Candidate pairs are found in a sketch of SKETCH_SIZE numbers per row (see `_sketch`), among all
    pairs or, with faiss, those in nearby cells; their cosines are then computed from all features.
    Memory: a kilobyte per row for the sketch.

    Args:
      threshold: rows with this cosine or a larger one are near-duplicates.

    Returns:
      kept int64 [N], the kept row that each row repeats (itself, if it is kept); and the cosine of
      the two, float32 [N]. Rows of NaN or zeros are kept.
    """
    sketch, limit = _sketch(rows, threshold)
    readable = np.flatnonzero(np.isfinite(sketch).all(1))
    search = _search(sketch[readable], limit)
    kept, cosines = np.arange(len(rows)), np.ones(len(rows), np.float32)
    with Progress("near-duplicates", len(readable), "image") as progress:
        for start in range(0, len(readable), QUERIES_AT_ONCE):
            block = np.arange(start, min(start + QUERIES_AT_ONCE, len(readable)))
            alive = kept[readable] == readable
            asking, found = search(block[alive[block]], alive)
            order = np.lexsort((found, asking))
            asking, found = readable[asking[order]], readable[found[order]]
            askers, first = np.unique(asking, return_index=True)
            ends = np.append(first, len(found))[1:].tolist()
            for asker, at, end in zip(askers.tolist(), first.tolist(), ends, strict=True):
                _settle(rows, threshold, (kept, cosines), asker, found[at:end])
            progress.update(len(block))
    return kept, cosines


def _settle(
    rows: FeatureRows,
    threshold: float,
    result: tuple[np.ndarray, np.ndarray],
    asker: int,
    candidates: np.ndarray,
) -> None:
    """Drops the row `asker` if it repeats an earlier kept row, else the later rows that repeat it.

    Args:
      result: the result of `keep_first` so far; final for rows before `asker`.
      candidates: int64, ascending.
    """
    kept, cosines = result
    candidates = candidates[kept[candidates] == candidates]
    if kept[asker] != asker or not len(candidates):
        return
    own = rows.take(np.array([asker]))[0]
    parts = range(0, len(candidates), PAIRS_AT_ONCE)
    near = np.concatenate([rows.take(candidates[i : i + PAIRS_AT_ONCE]) @ own for i in parts])
    holds = near >= threshold - ROUNDING
    found, near = candidates[holds], np.minimum(near[holds], 1.0)
    if len(found) and found[0] < asker:
        kept[asker], cosines[asker] = found[0], near[0]
    else:
        kept[found], cosines[found] = asker, near


def _sketch(rows: FeatureRows, threshold: float) -> tuple[np.ndarray, float]:
    """A random projection of the unit vectors, and the limit on squared distances in it.

    The squared distance of two rows is 2 - 2 cosine. A projection on S of D random orthogonal axes
    keeps S/D of it on average, with a relative standard deviation of sqrt(2/S). The limit is
    SKETCH_MARGIN of these above the mean: under one in 10,000 pairs at the threshold is lost.
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
    """A function that finds the rows within the squared distance `limit` of query rows.

    Its arguments are the query rows, int64, ascending, and a mask bool [N] of the rows that may be
    found. It returns P pairs of different rows, as query and found rows, int64 [P] each.
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
    """Compares each query with all later rows: a pair is found by its earlier row."""
    compare = _Comparison(sketch, limit)

    def search(asked: np.ndarray, alive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        others = np.flatnonzero(alive)
        others = others[others >= asked[0]] if len(asked) else others[:0]
        parts = np.array_split(others, -(-len(others) // ROWS_AT_ONCE) or 1)
        blocks = np.array_split(asked, -(-len(asked) // ROWS_COMPARED) or 1)
        return _joined(compare, ((own, part) for own in blocks for part in parts))

    return search


def _search_cells(sketch: np.ndarray, limit: float) -> Search:
    """Compares each query with the rows in its CELLS_PROBED nearest k-means cells, using faiss."""
    import faiss  # an extra

    cells = int(2 * math.sqrt(len(sketch)))
    means = faiss.Kmeans(sketch.shape[1], cells, niter=5, max_points_per_centroid=64)
    means.train(sketch)
    probed = np.empty((len(sketch), min(CELLS_PROBED, cells)), np.int32)
    with Progress("cells", len(sketch), "image") as progress:
        for start in range(0, len(sketch), ROWS_AT_ONCE):
            block = slice(start, start + ROWS_AT_ONCE)
            probed[block] = means.index.search(sketch[block], probed.shape[1])[1]
            progress.update(len(probed[block]))
    members = _by_cell(np.arange(len(sketch)), probed[:, 0], cells)
    compare = _Comparison(sketch, limit)

    def search(asked: np.ndarray, alive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        askers = np.repeat(asked, probed.shape[1])
        in_turn = zip(_by_cell(askers, probed[asked].ravel(), cells), members, strict=True)
        return _joined(compare, ((own, others[alive[others]]) for own, others in in_turn))

    return search


def _by_cell(rows: np.ndarray, cell_of: np.ndarray, cells: int) -> list[np.ndarray]:
    """The rows of each cell."""
    order = np.argsort(cell_of, kind="stable")
    ends = np.searchsorted(cell_of[order], np.arange(1, cells))
    return np.split(rows[order], ends)


def _joined(
    compare: _Comparison, work: Iterable[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs from all comparisons, which run in threads."""
    threads = cores()
    pairs = map_ahead(lambda rows: compare(*rows), work, threads, ahead=8 * threads)
    asking, found = zip(*pairs, strict=True)
    return np.concatenate(asking), np.concatenate(found)


class _Comparison:
    """Finds the pairs of rows within a squared distance."""

    def __init__(self, sketch: np.ndarray, limit: float) -> None:
        self._sketch = sketch
        self._half = 0.5 * np.square(sketch).sum(1)
        self._least = self._half - 0.5 * limit

    def __call__(self, asking: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        products = self._sketch[asking] @ self._sketch[others].T
        products -= self._half[others]
        row, column = np.nonzero(products >= self._least[asking][:, None])
        asking, found = asking[row], others[column]
        apart = asking != found
        return asking[apart], found[apart]
