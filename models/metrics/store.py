"""Scores of many images, written image by image and read class by class, on disk.

88,739 images x 11,166 classes of float32 are 4 GB: the file holds them, not the memory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

CHUNK_BYTES = 64 << 20
BLOCK_BYTES = 16 << 20
THREADS = 2


class ScoreStore:
    """An unlinked temporary file of chunks, each [C, images of the chunk]; gone when closed.

    Args:
      class_num: C, the columns of what is appended.
      directory: where the file is; the system's temporary folder when None. It takes
        4 x images x classes bytes.
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
        """Writes what is pending as one chunk."""
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
        """float32 [stop - start, images]: scores of these classes, as flushed; thread-safe."""
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
    with ThreadPoolExecutor(THREADS) as pool:  # NumPy sorts and searches without the GIL
        for counts in pool.map(count, store.blocks()):
            passed += counts
    return at_least, passed[::-1].cumsum()[::-1][1:]
