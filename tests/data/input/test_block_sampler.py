"""The sampler of blocks: every record once an epoch, blocks of few workers, an even rate."""

import functools
import itertools
import time

import numpy as np
import pytest

from data.common.sharding import StepShard
from data.input import sampler
from data.input.loader import SampleReader, StepPlan, load
from data.input.sampler import BlockSampler, block_count, shuffled
from data.tfrecords import records
from data.tfrecords.examples import encode_example
from data.tfrecords.reading import BlockReader, ReadOptions, block_of
from data.tfrecords.record_source import RecordSource

RECORDS, BLOCK, LANES, STEP, WORKERS = 100_003, 35, 256, 128, 4
OWN = STEP // WORKERS
BLOCKS = block_count(RECORDS, RECORDS // BLOCK, LANES)


def make(total=RECORDS, blocks=None, lanes=LANES, seed=1):
    return BlockSampler(total, seed, blocks or block_count(total, total // BLOCK, lanes), lanes)


@pytest.mark.parametrize(
    ("total", "blocks", "lanes"),
    [
        (1000, 143, 16),
        (1000, 1000, 16),
        (50, 7, 16),
        (10, 7, 16),
        (17, 6, 1),
        (RECORDS, None, LANES),
    ],
    ids=["plain", "single", "fewer blocks than lanes", "fewer records", "one lane", "large"],
)
def test_every_record_comes_once_an_epoch_however_it_is_asked_for(total, blocks, lanes):
    order = make(total, blocks, lanes)
    both = order.records(0, 2 * total)
    for epoch in (both[:total], both[total:]):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(total))
    assert (both[:total] != both[total:]).any()
    starts = range(0, 2 * total, max(13, total // 50))
    parts = [order.records(start, starts.step) for start in starts]
    np.testing.assert_array_equal(np.concatenate(parts)[: 2 * total], both)
    assert order.records(5, 0).tolist() == []


def test_the_order_is_that_of_the_seed():
    first = make().records(0, RECORDS)
    np.testing.assert_array_equal(make().records(0, RECORDS), first)
    assert (make(seed=2).records(0, RECORDS) != first).mean() > 0.99


def test_a_small_order_by_hand(monkeypatch):
    """14 records in 5 blocks that begin at 0, 3, 6, 9 and 12, and 3 lanes."""

    def turn_around(values, *seed):
        values[:] = values[::-1].copy()

    monkeypatch.setattr(sampler, "_shuffle", turn_around)
    # The row has blocks 3 2 1 0 of three records and, in its own place, 4 of two, each backwards:
    # 11 10 9 8 7 | 6 5 4 3 2 | 1 0 13 12, and the bars begin the second and the third lane.
    expected = [11, 6, 1, 10, 5, 0, 9, 4, 13, 8, 3, 12, 7, 2]
    assert make(14, 5, 3).records(0, 14).tolist() == expected


@pytest.mark.parametrize(
    ("total", "wanted", "lanes", "blocks"),
    [
        (10**6, 1000, 8, 1005),  # 125 for each of 8 lanes, and 5 over: 0.618 x 8, without a factor
        (10**6, 10, 8, 7 * 8 + 5),  # a lane has seven blocks at least
        (10**6, 1000, 256, 3 * 256 + 159 + 4 * 256),  # 158 is even
        (10**6, 1000, 1, 1000),
        (40, 1000, 8, 40),  # no more blocks than records
    ],
)
def test_how_many_blocks_are_made(total, wanted, lanes, blocks):
    assert block_count(total, wanted, lanes) == blocks


def test_epochs_end_without_reading_blocks_again():
    """What three epochs of few records from 8 lanes read, a step of 8 ahead, keeping 8 blocks."""
    total, lanes = 4001, 8
    blocks = block_count(total, total // BLOCK, lanes)
    order, loaded = make(total, blocks, lanes), []
    reader = BlockReader(loaded.append, kept=lanes + 2, readers=2)
    for step in range(3 * total // 8):
        numbers = block_of(order.records(8 * step, 8), total, blocks).tolist()
        reader.prefetch(numbers)
        ahead = order.records(8 * step + 4 * BLOCK, 8)
        reader.read_ahead(block_of(ahead, total, blocks).tolist())
        for number in numbers:
            reader.block(number)
    assert len(loaded) <= 3 * (blocks + lanes) + lanes


class SlowSource(RecordSource):
    """Takes a while for each block, and knows how many it read."""

    blocks_read = 0

    def _read_block(self, number):
        time.sleep(0.002)
        self.blocks_read += 1
        return super()._read_block(number)


def test_steps_that_are_read_at_once_keep_the_blocks_of_each_other(tmp_path):
    """As many images in a step as lanes: each step needs all blocks that are in use."""
    total, images, epochs = 3000, 32, 2
    with records.RecordWriter(tmp_path / "records") as writer:
        for _ in range(total):
            writer.write(encode_example("sparse", b"image", "", 1, 1, [0], [1.0], 1))
    reading = ReadOptions("blocks", block_mib=0.001, shuffle_blocks=images, readers=2)
    source, shard = SlowSource(tmp_path, 1, 0, reading=reading), StepShard(images, 0, 1, 1)
    reader = SampleReader(source, shuffled(source, 1, (1, 1), shard).records)
    indices = functools.partial(shard.sample_indices, 0)
    plan = StepPlan(indices, images, 1, lambda: np.empty(images, object))
    batches = load(reader, lambda *_: None, plan, threads=2)
    for _ in itertools.islice(batches, epochs * total // images):
        pass
    batches.close()
    assert epochs * source.blocks < source.blocks_read < 1.25 * epochs * source.blocks


def numbers_of(records):
    """The blocks of records."""
    return block_of(records, RECORDS, BLOCKS)


def test_workers_share_hardly_a_block():
    order, blocks = make(), [set() for _ in range(WORKERS)]
    steps = RECORDS // STEP
    for step in range(steps):
        own = numbers_of(order.records(step * STEP, STEP)).reshape(WORKERS, OWN)
        for worker, numbers in enumerate(own):
            blocks[worker].update(numbers.tolist())
    # Where a lane of one ends and one of another begins, both read the block.
    assert sum(map(len, blocks)) <= BLOCKS + LANES


def test_blocks_are_needed_at_an_even_rate_and_by_many_at_once():
    order, known, new = make(), set(), []
    for step in range(300):
        records = order.records(step * STEP, OWN)
        blocks = set(numbers_of(records).tolist())
        assert len(blocks) == OWN  # every image of a worker's step is of another block
        new.append(len(blocks - known))
        known |= blocks
    own_lanes = LANES // STEP  # steps until a worker has seen all its lanes
    assert new[:own_lanes] == [OWN] * own_lanes
    assert max(new[own_lanes:]) <= 3 and np.mean(new[own_lanes:]) == pytest.approx(
        OWN / BLOCK, rel=0.1
    )
