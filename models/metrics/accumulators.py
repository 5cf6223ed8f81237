"""Accumulators of the evaluators: scores on disk, exact sums, pairs of classes, hardest examples.

Sums over workers do not depend on the order of images or the number of workers.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from models.distributed.base import Distributed
from models.metrics.labeled import LEFT_OUT, LabeledScores

CHUNK_BYTES = 64 << 20
BLOCK_BYTES = 16 << 20
COUNTED_AT_ONCE = 1 << 17  # scores that stay in the cache
THREADS = 2
# 2^-30 is an error below 1e-9 in a mean; int64 then holds sums up to 8.6e9.
FIXED_POINT = 2**30
TINY = np.finfo(np.float32).tiny  # the smallest probability whose logarithm is taken
PENDING_PAIRS = 1 << 20
NOBODY = -1  # the sample_index of no image


class ScoreStore:
    """Scores of many images, written image by image and read class by class.

    They are in an unlinked temporary file of chunks, each [C, images of the chunk], which is
    deleted when closed: 88,739 images x 11,166 classes of float32 are 4 GB, too much for memory.

    Args:
      class_num: C, number of columns of the appended scores.
      directory: folder of the file, which needs 4 x images x classes bytes; None: the system's
        temporary folder.
    """

    def __init__(self, class_num: int, directory: str | Path | None = None) -> None:
        self.class_num, self.images = class_num, 0
        self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115 (kept open)
        self._chunks: list[int] = []  # images of each chunk on disk
        self._pending: list[np.ndarray] = []
        self._pending_images = 0

    def append(self, scores: np.ndarray) -> None:
        """Adds float32 [B, C]; the array is kept until its chunk is full, so do not write to it."""
        self._pending.append(scores)
        self._pending_images += len(scores)
        self.images += len(scores)
        if self._pending_images * self.class_num * 4 >= CHUNK_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes the pending scores as one chunk."""
        if self._pending_images:
            chunk, first = np.empty((self.class_num, self._pending_images), np.float32), 0
            for scores in self._pending:  # each stays in the cache while it is transposed
                chunk[:, first : first + len(scores)] = scores.T
                first += len(scores)
            left = memoryview(chunk).cast("B")
            while left:
                left = left[self._file.write(left) :]
            self._chunks.append(self._pending_images)
            self._pending, self._pending_images = [], 0

    def columns(self, start: int, stop: int) -> np.ndarray:
        """float32 [stop - start, images]: the flushed scores of these classes; thread-safe."""
        columns = np.empty((stop - start, self.images), np.float32)
        offset, first = 0, 0
        for images in self._chunks:
            part = np.empty((stop - start, images), np.float32)
            self._read(part, offset + start * images * 4)
            columns[:, first : first + images] = part
            offset += self.class_num * images * 4
            first += images
        return columns

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Ranges (start, stop) of classes whose columns take up to BLOCK_BYTES."""
        step = max(1, BLOCK_BYTES // (4 * max(self.images, 1)))
        for start in range(0, self.class_num, step):
            yield start, min(start + step, self.class_num)

    def close(self) -> None:
        """Frees the disk space."""
        self._file.close()

    def _read(self, array: np.ndarray, offset: int) -> None:
        view = memoryview(array).cast("B")
        while view:
            read = os.preadv(self._file.fileno(), [view], offset)
            if not read:
                raise OSError("the temporary file of scores ended early")
            view, offset = view[read:], offset + read


def count_at_least(
    store: ScoreStore, group: np.ndarray, score: np.ndarray, levels: np.ndarray, use: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Two counts over the scores in `store`, both int64.

    Args:
      group, score: [P], classes ascending, and a score for each.
      levels: float32 [L], ascending.
      use: bool [C], the classes that the second count is over.
    Returns: [P] images whose score in class `group[i]` is at least `score[i]`; and [L] entries of
      the classes in `use` with at least `levels[j]`.
    """
    store.flush()
    bounds = np.searchsorted(group, np.arange(store.class_num + 1))
    at_least = np.zeros(len(group), np.int64)

    def count(block: tuple[int, int]) -> np.ndarray:
        columns = store.columns(*block)
        columns.sort(axis=1)
        for c in range(*block):
            part = slice(bounds[c], bounds[c + 1])
            below = np.searchsorted(columns[c - block[0]], score[part], side="left")
            at_least[part] = store.images - below
        passed = np.searchsorted(levels, columns[use[slice(*block)]].ravel(), side="right")
        return np.bincount(passed, minlength=len(levels) + 1)

    passed = np.zeros(len(levels) + 1, np.int64)
    with ThreadPoolExecutor(THREADS) as pool:  # NumPy releases the GIL to sort and search
        for counts in pool.map(count, store.blocks()):
            passed += counts
    return at_least, passed[::-1].cumsum()[::-1][1:]


def add_up(
    store: ScoreStore, use: np.ndarray, count: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """The sum of `count` over the known scores, computed part by part.

    Args:
      use: bool [C], the classes whose scores are counted.
      count: float32 [N] -> int64 of a fixed shape, a sum over the N scores.
    """
    store.flush()

    def of_block(block: tuple[int, int]) -> np.ndarray:
        scores = store.columns(*block)[use[slice(*block)]]
        known = scores[np.isfinite(scores)]  # unknown ones are LEFT_OUT
        starts = range(0, len(known) or 1, COUNTED_AT_ONCE)
        return sum(count(known[start : start + COUNTED_AT_ONCE]) for start in starts)

    with ThreadPoolExecutor(THREADS) as pool:  # NumPy releases the GIL to count
        return sum(pool.map(of_block, store.blocks()))


class ExactSums:
    """Sums of named per-image values, the same in any order.

    Sums of floats depend on their order. Here every addend is rounded to a multiple of 2^-30 and
    added as an integer, so shards add up to exactly what one process counts.
    """

    def __init__(self) -> None:
        self._sums: dict[str, int] = {}

    def add(self, values: Mapping[str, np.ndarray]) -> None:
        """Adds float64 [B] values, name by name."""
        for name, array in values.items():
            fixed = np.rint(np.asarray(array, np.float64) * FIXED_POINT).astype(np.int64)
            self._sums[name] = self._sums.get(name, 0) + int(fixed.sum())

    def totals(self, names: tuple[str, ...], workers: Distributed) -> dict[str, float]:
        """Sums over all workers, for `names`, which must be the same on every worker."""
        own = np.array([self._sums.get(name, 0) for name in names], np.int64)
        return dict(zip(names, (workers.sum(own) / FIXED_POINT).tolist(), strict=True))


class PairCounts:
    """Counts pairs of classes, such as a label and the class predicted in its place."""

    def __init__(self, class_num: int) -> None:
        self._class_num = class_num
        self._counted = np.zeros((2, 0), np.int64)  # first * class_num + second; its count
        self._pending: list[np.ndarray] = []
        self._pending_pairs = 0

    def add(self, first: np.ndarray, second: np.ndarray) -> None:
        """Counts pairs (first[i], second[i]) of classes, int64 [P]."""
        self._pending.append(first * self._class_num + second)
        self._pending_pairs += len(first)
        if self._pending_pairs > PENDING_PAIRS:
            self._merge()

    def gather(self, workers: Distributed) -> np.ndarray:
        """int64 [N, 3]: (first, second, count) over all workers, the most frequent pair first.

        All workers call this and get the same.
        """
        self._merge()
        keys, count = _add_counts(*(gather(part, workers) for part in self._counted))
        order = np.argsort(-count, kind="stable")  # ties: lower classes first
        return np.stack([*np.divmod(keys[order], self._class_num), count[order]], axis=1)

    def _merge(self) -> None:
        keys = np.concatenate([self._counted[0], *self._pending])
        added = np.ones(len(keys) - self._counted.shape[1], np.int64)
        self._counted = _add_counts(keys, np.concatenate([self._counted[1], added]))
        self._pending, self._pending_pairs = [], 0


def _add_counts(keys: np.ndarray, count: np.ndarray) -> np.ndarray:
    """int64 [2, N]: each key once, in ascending order, and the total of its counts."""
    unique, inverse = np.unique(keys, return_inverse=True)
    totals = np.zeros(len(unique), np.int64)
    np.add.at(totals, inverse, count)
    return np.stack([unique, totals])


def gather(array: np.ndarray, workers: Distributed) -> np.ndarray:
    """int64 arrays [N_r] of all workers, joined in rank order; each worker gets the same result."""
    lengths = np.zeros(workers.size, np.int64)
    lengths[workers.rank] = len(array)
    lengths = workers.sum(lengths)
    start = int(lengths[: workers.rank].sum())
    joined = np.zeros(int(lengths.sum()), np.int64)
    joined[start : start + len(array)] = array
    return workers.sum(joined) if len(joined) else joined


def gather_rows(rows: Sequence[Sequence[Any]], workers: Distributed) -> list[tuple]:
    """Rows of numbers and strings of all workers, in ascending order; each worker gets the same."""
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    joined = gather(np.frombuffer(text, np.uint8).astype(np.int64), workers)
    return sorted(tuple(json.loads(line)) for line in bytes(joined.astype(np.uint8)).splitlines())


class HardestExamples:
    """For each class, the images whose scores are the most wrong so far.

    Attributes:
      sample_index: `false_negatives` (positives with the lowest scores) and `false_positives`
        (negatives with the highest scores), int64 [keep, C] each: the most wrong first, padded with
        NOBODY.
    """

    def __init__(self, class_num: int, keep: int = 3, positive_threshold: float = 0.5) -> None:
        kinds, shape = ("false_negatives", "false_positives"), (keep, class_num)
        self._positive_threshold = positive_threshold
        self.sample_index = {kind: np.full(shape, NOBODY) for kind in kinds}
        self._wrongness = {kind: np.full(shape, -np.inf) for kind in kinds}

    def update(self, batch: LabeledScores, sample_index: np.ndarray) -> None:
        """Adds a batch, as returned by an evaluator's `update`, with its image numbers [B]."""
        scores, positive = batch.scores, batch.positive_mask(self._positive_threshold)
        self._merge("false_negatives", -scores, positive, sample_index)
        self._merge("false_positives", scores, ~positive & (scores != LEFT_OUT), sample_index)

    def gather(self, workers: Distributed) -> None:
        """Merges the images of all workers; all of them call this and get the same result."""
        for kind, kept in self.sample_index.items():
            ranks, shape = self._wrongness[kind], (-1, kept.shape[1])
            # Horovod: `gather` joins integers, so the bits of floats are passed as such.
            values = gather(ranks.view(np.int64).ravel(), workers).view(np.float64).reshape(shape)
            owners = gather(kept.ravel(), workers).reshape(shape)
            # Among ties, the images that come first, as on one worker.
            order = np.lexsort((owners, -values), axis=0)[: len(kept)]
            ranks[:] = np.take_along_axis(values, order, axis=0)
            kept[:] = np.take_along_axis(owners, order, axis=0)

    def _merge(
        self, kind: str, wrongness: np.ndarray, candidates: np.ndarray, sample_index: np.ndarray
    ) -> None:
        """Keeps, for each class, the most wrong of those kept and of the `candidates` [B, C]."""
        kept, ranks = self.sample_index[kind], self._wrongness[kind]
        better = candidates & (wrongness > ranks[-1])
        columns = np.flatnonzero(better.any(axis=0))  # few, once the first images have passed
        chosen = better[:, columns]
        everyone = np.broadcast_to(sample_index[:, None], chosen.shape)
        added = np.where(chosen, wrongness[:, columns], -np.inf)
        values = np.concatenate([ranks[:, columns], added])
        owners = np.concatenate([kept[:, columns], np.where(chosen, everyone, NOBODY)])
        order = np.argsort(-values, axis=0, kind="stable")[: len(kept)]
        ranks[:, columns] = np.take_along_axis(values, order, axis=0)
        kept[:, columns] = np.take_along_axis(owners, order, axis=0)
