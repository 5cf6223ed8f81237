"""The order in which training reads records: a pure function of the seed and the files' sizes.

Positions 0, 1, 2, ... run through epoch after epoch without a gap. Each epoch permutes the files,
cuts them into windows, and permutes the records of a window (ours; the released system shuffled a
stream instead). Nothing depends on how many workers read: the global batch of step k is positions
[k * G, (k + 1) * G), and each worker takes its own slice of it (sharding.py). So every record is
read once an epoch whoever reads it, and training resumes at any step, with any number of workers,
at once.

Another sampler (class-balanced, say) is another class with `records(start, count)`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WINDOWS_KEPT = 2  # a batch may begin in one window and end in the next


class _Epoch(NamedTuple):
    files: np.ndarray  # the permuted files
    window_files: np.ndarray  # int64 [windows + 1]: where each window starts in `files`
    window_records: np.ndarray  # int64 [windows + 1]: where it starts among the epoch's records


class RecordOrder:
    """Maps positions to record ids.

    A record id counts the records of all files in the given order of files, from 0.

    Args:
        counts: records of each file.
        seed: of all permutations.
        window_files: files in a window (`--file_shuffle_buffer`), more if these hold fewer than
            `window_records` records (`--shuffle_buffer`). A window's record ids are all that is
            kept in memory, 8 bytes a record.

    Raises:
        ValueError: no records.
    """

    def __init__(self, counts: Sequence[int], seed: int, window_files: int, window_records: int):
        self._counts = np.asarray(counts, np.int64)
        self._first = np.concatenate([[0], np.cumsum(self._counts)])
        self.total = int(self._first[-1])
        if not self.total:
            raise ValueError("no records to order")
        self._seed = seed
        self._window_files = window_files
        self._window_records = window_records
        self._epoch = functools.lru_cache(WINDOWS_KEPT)(self._plan_epoch)
        self._window = functools.lru_cache(WINDOWS_KEPT)(self._permute_window)

    def records(self, start: int, count: int) -> np.ndarray:
        """The record ids, int64 [count], at positions start, start + 1, ..."""
        parts = []
        while count > 0:
            epoch, at = divmod(start, self.total)
            starts = self._epoch(epoch).window_records
            window = int(np.searchsorted(starts, at, "right")) - 1
            begin = at - int(starts[window])
            parts.append(self._window(epoch, window)[begin : begin + count])
            start += len(parts[-1])
            count -= len(parts[-1])
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _plan_epoch(self, epoch: int) -> _Epoch:
        files = np.arange(len(self._counts))
        _shuffle(files, self._seed, epoch)
        ends = np.cumsum(self._counts[files])
        bounds = [0]
        while bounds[-1] < len(files):
            before = ends[bounds[-1] - 1] if bounds[-1] else 0
            enough = int(np.searchsorted(ends, before + self._window_records)) + 1
            bounds.append(max(bounds[-1] + self._window_files, enough))
        bounds[-1] = len(files)
        starts = np.concatenate([[0], ends])[bounds]
        if len(bounds) > 2 and starts[-1] - starts[-2] < self._window_records:
            del bounds[-2]  # a last window too small to shuffle well joins the one before it
        window_files = np.array(bounds)
        return _Epoch(files, window_files, np.concatenate([[0], ends])[window_files])

    def _permute_window(self, epoch: int, window: int) -> np.ndarray:
        plan = self._epoch(epoch)
        files = plan.files[plan.window_files[window] : plan.window_files[window + 1]]
        ranges = [np.arange(self._first[f], self._first[f + 1]) for f in files]
        records = np.concatenate(ranges)
        _shuffle(records, self._seed, epoch, window)
        return records


def _shuffle(values: np.ndarray, *seed: int) -> None:
    # RandomState, not Generator: NumPy promises never to change what it draws from a seed, so a
    # job resumes in the same order under another NumPy.
    np.random.RandomState([part & 0xFFFFFFFF for part in seed]).shuffle(values)
