"""The sampler of blocks: every record once an epoch, blocks of few workers, an even rate."""

import numpy as np
import pytest

from data.input import sampler
from data.input.sampler import BlockSampler

RECORDS, BLOCK, LANES, STEP, WORKERS = 100_003, 35, 256, 128, 4
OWN = STEP // WORKERS


def make(total=RECORDS, block=BLOCK, lanes=LANES, seed=1):
    return BlockSampler(total, seed, block, lanes)


@pytest.mark.parametrize(
    ("total", "block", "lanes"),
    [(1000, 7, 16), (1000, 1, 16), (50, 7, 16), (17, 3, 1), (RECORDS, BLOCK, LANES)],
    ids=["plain", "single records", "fewer blocks than lanes", "one lane", "large"],
)
def test_every_record_comes_once_an_epoch_however_it_is_asked_for(total, block, lanes):
    order = make(total, block, lanes)
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
    """12 records in blocks of 2 and 3 lanes, none of which is permuted."""
    monkeypatch.setattr(sampler, "_shuffle", lambda values, *seed: None)
    # Lanes: blocks 0 3, 1 4, 2 5. They begin at fractions 0, 0.618, 0.236 of a block of two: with
    # record 0, 1 and 0 of it; the second lane comes to record 0 of its first block at the end.
    expected = [0, 3, 4, 1, 8, 5, 6, 9, 10, 7, 2, 11]
    assert make(12, 2, 3).records(0, 12).tolist() == expected


def test_workers_share_hardly_a_block():
    order, blocks = make(), [set() for _ in range(WORKERS)]
    steps = RECORDS // STEP
    for step in range(steps):
        own = (order.records(step * STEP, STEP) // BLOCK).reshape(WORKERS, OWN)
        for worker, numbers in enumerate(own):
            blocks[worker].update(numbers.tolist())
    # What does not fill the lanes at the end of an epoch is shared.
    assert sum(map(len, blocks)) < 1.2 * RECORDS / BLOCK


def test_blocks_are_needed_at_an_even_rate_and_by_many_at_once():
    order, known, new = make(), set(), []
    for step in range(300):
        records = order.records(step * STEP, OWN)
        blocks = set((records // BLOCK).tolist())
        assert len(blocks) == OWN  # every image of a worker's step is of another block
        new.append(len(blocks - known))
        known |= blocks
    own_lanes = LANES // STEP  # steps until a worker has seen all its lanes
    assert new[:own_lanes] == [OWN] * own_lanes
    assert max(new[own_lanes:]) <= 3 and np.mean(new[own_lanes:]) == pytest.approx(
        OWN / BLOCK, rel=0.1
    )
