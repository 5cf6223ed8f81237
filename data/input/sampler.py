"""Samplers: which record each training sample is, as a pure function of the seed.

Sample indices 0, 1, 2, ... run through epoch after epoch without a gap. Nothing depends on the
number of workers: the global batch of step k is samples [k * G, (k + 1) * G), and each worker reads
its own slice of it (data/common/sharding.py). So, with any number of workers, training can resume
at any step, and every record is read once per epoch.

A sampler is a class with `records(start, count)`; `RandomSampler` is the default.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data.common.sharding import StepShard
from data.tfrecords.reading import block_begins, block_of
from data.tfrecords.record_source import RecordSource, count_classes

LOGGER = logging.getLogger(__name__)
WINDOWS_KEPT = 2  # a batch may begin in one window and end in the next
BLOCK = 4096  # samples drawn together
BLOCKS_KEPT = 4
ORDERS = 64  # different orders of the records in a block, per epoch
ROUNDS = 7  # minimum full blocks per lane in an epoch, if there are enough records
CLASSES_LISTED = 100  # for more classes, the log has a summary
_GOLDEN_RATIO = 0.6180339887498949


class _Epoch(NamedTuple):
    files: np.ndarray  # the permuted files
    window_files: np.ndarray  # int64 [windows + 1]: where each window starts in `files`
    window_records: np.ndarray  # int64 [windows + 1]: where it starts among the epoch's records


class _BlockEpoch(NamedTuple):
    blocks: np.ndarray  # the permuted blocks
    orders: np.ndarray  # int64 [2, ORDERS, longest block]: permutations of a short, a long block


class RandomSampler:
    """Maps sample indices to record ids, each once per epoch.

    Each epoch permutes the files, cuts them into windows, and permutes the records of a window
    (ours; the released system shuffled a stream instead).

    Record ids number the records of all files from 0, in the given order of files.

    Args:
        counts: records of each file.
        seed: seed of all permutations.
        window_files: files per window (`--file_shuffle_buffer`), more if these hold fewer than
            `window_records` records (`--shuffle_buffer`). Only a window's record ids are kept in
            memory, 8 bytes per record.

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
        """The record ids, int64 [count], of samples start, start + 1, ..."""
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
        starts = np.concatenate([[0], np.cumsum(self._counts[files])])  # and the end
        bounds = [0]
        while bounds[-1] < len(files):
            wanted = starts[bounds[-1]] + self._window_records
            enough = int(np.searchsorted(starts[1:], wanted)) + 1
            bounds.append(max(bounds[-1] + self._window_files, enough))
        bounds[-1] = len(files)
        if len(bounds) > 2 and starts[-1] - starts[bounds[-2]] < self._window_records:
            del bounds[-2]  # a last window too small to shuffle well joins the one before it
        return _Epoch(files, np.array(bounds), starts[bounds])

    def _permute_window(self, epoch: int, window: int) -> np.ndarray:
        plan = self._epoch(epoch)
        files = plan.files[plan.window_files[window] : plan.window_files[window + 1]]
        ranges = [np.arange(self._first[f], self._first[f + 1]) for f in files]
        records = np.concatenate(ranges)
        _shuffle(records, self._seed, epoch, window)
        return records


class BlockSampler:
    """Maps sample indices to record ids, each once per epoch, so that records are read in blocks.

    For storage with high latency (ours). A block is a run of consecutive records, see
    `block_begins`. Each epoch permutes the blocks of the same size, lays all blocks in a row, and
    cuts the row into lanes. Consecutive samples come from consecutive lanes, and each lane advances
    through its part of the row. So a step uses as many blocks as it has images, and a worker whose
    steps have the same lanes reads each block once, or twice if two lanes meet in it. A block that
    is the only one of its size keeps its place in the row.

    Args:
        total: number of records.
        seed: seed of all permutations.
        blocks, lanes: how many of each; with `block_count` blocks, lanes begin new blocks at an
            even rate.
    """

    def __init__(self, total: int, seed: int, blocks: int, lanes: int):
        self.total, self._seed, self._lanes = total, seed, lanes
        self._begins = block_begins(total, blocks)
        self._sizes = np.diff(self._begins)
        self._is_long = self._sizes - self._sizes.min()  # 0 or 1
        self._lane_size, self._longer_lanes = divmod(total, lanes)  # those have one more record
        self._epoch = functools.lru_cache(WINDOWS_KEPT)(self._plan_epoch)

    def records(self, start: int, count: int) -> np.ndarray:
        """The record ids, int64 [count], of samples start, start + 1, ..."""
        parts = [np.zeros(0, np.int64)]
        while count > 0:
            epoch, at = divmod(start, self.total)
            positions = np.arange(at, min(at + count, self.total))
            turn, lane = np.divmod(positions, self._lanes)
            begin_of_lane = lane * self._lane_size + np.minimum(lane, self._longer_lanes)
            parts.append(self._in_row(epoch, begin_of_lane + turn))
            start += len(positions)
            count -= len(positions)
        return np.concatenate(parts)

    def _in_row(self, epoch: int, places: np.ndarray) -> np.ndarray:
        """The record ids at these places in the row of permuted blocks."""
        plan, place = self._epoch(epoch), block_of(places, self.total, len(self._sizes))
        block, slot = plan.blocks[place], places - self._begins[place]
        order = plan.orders[self._is_long[block], block % ORDERS, slot]
        return self._begins[block] + order

    def _plan_epoch(self, epoch: int) -> _BlockEpoch:
        longest, blocks = self._sizes.max(), np.arange(len(self._sizes))
        for size in np.unique(self._sizes):  # within a size, so that blocks begin at `_begins`
            of_size = np.flatnonzero(self._sizes == size)
            permuted = of_size.copy()
            _shuffle(permuted, self._seed, epoch, int(size))
            blocks[of_size] = permuted
        orders = np.tile(np.arange(longest), (2, ORDERS, 1))
        for number, order in enumerate(orders[1]):
            _shuffle(order, self._seed, epoch, 1, number)
        if self._sizes.min() < longest:  # short blocks: the same orders without the last record
            kept = orders[1] != longest - 1
            orders[0, :, :-1] = orders[1][kept].reshape(ORDERS, longest - 1)
        else:
            orders[0] = orders[1]
        return _BlockEpoch(blocks, orders)


def block_count(total: int, wanted: int, lanes: int) -> int:
    """How many blocks to divide the records into for this many lanes: about `wanted`, or more.

    The number of blocks per lane is not an integer. Its fractional part is near the golden ratio,
    and in lowest terms its denominator is `lanes`: so no two lanes begin at the same place in a
    block, and any few consecutive lanes begin far apart.
    """
    over = next(
        over
        for distance in range(lanes + 1)
        for over in (
            round(_GOLDEN_RATIO * lanes) + distance,
            round(_GOLDEN_RATIO * lanes) - distance,
        )
        if over > 0 and math.gcd(over, lanes) == 1
    )
    rounds = max(ROUNDS, math.ceil((wanted - over) / lanes))
    return min(total, rounds * lanes + over)


def _shuffle(values: np.ndarray, *seed: int) -> None:
    # RandomState, not Generator: NumPy guarantees that a seed always gives the same draws, so a job
    # resumes in the same order under another NumPy.
    np.random.RandomState([part & 0xFFFFFFFF for part in seed]).shuffle(values)


def shuffled(
    source: RecordSource, seed: int, windows: tuple[int, int], step_shard: StepShard
) -> RandomSampler | BlockSampler:
    """The sampler of a source: by blocks, if it is read in more blocks than memory may hold.

    Args:
        source: if read in blocks, it will keep all of them, or those of this worker's lanes.
        seed: seed of all permutations.
        windows: files and records of a window, see `RandomSampler`.
        step_shard: this worker's part of every step.
    """
    if not source.blocks:
        return RandomSampler(source.counts, seed, *windows)
    step = step_shard.global_batch
    lanes_per_image = math.ceil(source.reading.shuffle_blocks / step)
    lanes = lanes_per_image * step
    log = LOGGER.info if step_shard.first == 0 else LOGGER.debug
    if source.blocks <= source.reading.shuffle_blocks:  # the same for any number of workers
        log("keeping all records in memory, read in %d block(s)", source.blocks)
        source.read_in_blocks(source.blocks, kept=source.blocks)
        return RandomSampler(source.counts, seed, *windows)
    blocks = block_count(source.total, source.blocks, lanes)
    images = step_shard.count * step_shard.micro_batch
    log("reading blocks of %.0f records, %d of them shuffled", source.total / blocks, lanes)
    # Plus one step's blocks: two steps are read at once, and the later must not evict the other's.
    source.read_in_blocks(blocks, kept=(lanes_per_image + 1) * images)
    return BlockSampler(source.total, seed, blocks, lanes)


class WeightedSampler:
    """Maps sample indices to record ids drawn by weight, with replacement; it has no epochs.

    Args:
        weights: one per record, see `record_weights`.
        seed: seed of the draws.
    """

    def __init__(self, weights: np.ndarray, seed: int):
        self._cumulated = np.cumsum(weights) / np.sum(weights)
        self._seed = seed & 0xFFFFFFFF
        self._block = functools.lru_cache(BLOCKS_KEPT)(self._draw)

    def records(self, start: int, count: int) -> np.ndarray:
        """The record ids, int64 [count], of samples start, start + 1, ..."""
        first, last = start // BLOCK, (start + count - 1) // BLOCK
        blocks = [self._block(block) for block in range(first, last + 1)]
        begin = start - first * BLOCK
        return np.concatenate(blocks)[begin : begin + count]

    def _draw(self, block: int) -> np.ndarray:
        # A seed gives the same draws in any NumPy version, so a resumed run draws the same.
        draws = np.random.RandomState([self._seed, block]).random_sample(BLOCK)
        found = np.searchsorted(self._cumulated, draws, "right")
        return np.minimum(found, len(self._cumulated) - 1)


def record_weights(labels: Sequence[np.ndarray], class_num: int, strength: float) -> np.ndarray:
    """The sampling weight of each record, float64 [records].

    The weight of a record is that of its rarest positive class, `1 / images ** strength`: strength
    0 draws every record equally often, 1 every class about equally often (ours; Gupta et al., LVIS,
    section 4, oversample by the rarest class in the same way).

    Args:
        labels: the positive classes of each record.
        class_num: number of classes.
        strength: see above (`--class_balance`); a record without a positive class gets the weight
            of the most frequent class.
    """
    counts = count_classes(labels, class_num)
    of_class = np.maximum(counts, 1) ** -float(strength)
    least = of_class.min()
    return np.array([of_class[classes].max() if len(classes) else least for classes in labels])


def describe_counts(counts: np.ndarray) -> str:
    """How many records are positive for each class [C], in one line for the log."""
    class_num = len(counts)
    if class_num <= CLASSES_LISTED:
        each = ", ".join(f"{c}: {count}" for c, count in enumerate(counts))
    else:
        least, middle, most = np.percentile(counts, [0, 50, 100]).astype(int)
        each = f"from {least} to {most}, median {middle}"
    empty = np.flatnonzero(counts == 0)
    none = f"; {len(empty)} without any, the first {empty[0]}" if len(empty) else ""
    return f"positive records of {class_num} classes: {each}{none}"
