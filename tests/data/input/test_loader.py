"""The loader: order, replaced samples, errors, and an end whenever its user ends."""

import itertools
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from data.common.errors import UserError
from data.input import loader
from data.input.loader import SampleReader, StepPlan
from data.tfrecords.record_source import Sample
from data.tfrecords.records import RecordError

ROOT = Path(__file__).parents[3]
SIDE = 2


class Source:
    """Numbered records without a file; those of `damaged` cannot be read."""

    records_ahead = 0

    def __init__(self, damaged=(), most=9):
        self.damaged, self.rejected, self.most = damaged, [], most

    def prefetch(self, records):
        list(records)

    def read(self, record):
        if record in self.damaged:
            raise RecordError("damaged")
        return Sample(b"%d" % record, b"", np.array([record], np.int32), np.ones(1, np.float32))

    def reject(self, record, reason):
        self.rejected.append((record, reason))
        if len(self.rejected) > self.most:
            raise UserError(f"too many, the last {record}: {reason}")


def load(source, undecodable=(), batch_size=12, micro_batches=1, threads=3, made=None):
    """The loader over images whose pixels are the numbers of their samples."""

    def make_images(samples, images):
        numbers = [int(indexed.sample.image) for indexed in samples]
        time.sleep(0.001 * (numbers[0] % 3))
        bad = set(numbers) & set(undecodable)
        if bad:
            raise tf.errors.InvalidArgumentError(None, None, f"no image: {min(bad)}")
        images[...] = np.reshape(numbers, (-1, 1, 1, 1))
        if made is not None:
            made.extend(numbers)

    count = batch_size * micro_batches
    plan = StepPlan(
        lambda step: range(step * count, (step + 1) * count),
        *(batch_size, micro_batches, lambda: loader.aligned((batch_size, SIDE, SIDE, 3))),
    )
    return loader.load(
        SampleReader(source, lambda start, count: start + np.arange(count)),
        make_images,
        plan,
        threads,
    )


def take(batches, count):
    found = list(itertools.islice(batches, count))
    batches.close()
    return found


def pixels(batches):
    return [int(image[0, 0, 0]) for batch in batches for image in batch.images]


@pytest.mark.parametrize(("batch_size", "threads"), [(12, 3), (7, 1), (1, 2), (16, 5)])
def test_batches_come_in_order(batch_size, threads):
    found = take(load(Source(), batch_size=batch_size, threads=threads), 9)
    assert pixels(found) == list(range(9 * batch_size))
    assert found[0].images.shape == (batch_size, SIDE, SIDE, 3)


def test_labels_and_images_are_of_the_same_samples():
    found = take(load(Source({3, 17}), {4, 18, 30}, batch_size=6, micro_batches=2), 6)
    expected = [
        5 if n in (3, 4) else 19 if n in (17, 18) else 31 if n == 30 else n for n in range(36)
    ]
    assert pixels(found) == expected
    for batch in found:
        part = batch.samples[batch.number * 6 : batch.number * 6 + 6]
        assert [int(indexed.sample.image) for indexed in part] == pixels([batch])
    assert [batch.number for batch in found] == [0, 1] * 3


def test_bad_records_are_named_once():
    source = Source({3}, most=2)
    take(load(source, {5}), 2)
    assert sorted(source.rejected) == [
        (3, "damaged"),
        (5, "the image cannot be decoded: no image: 5"),
    ]


def test_too_many_bad_records_end_the_run_in_their_place():
    batches = load(Source(most=1), {30, 31})
    assert pixels(itertools.islice(batches, 2)) == list(range(24))
    with pytest.raises(UserError, match=r"the last 3.: the image cannot be decoded"):
        next(batches)


def test_a_bounded_number_of_batches_is_made_ahead():
    made = []
    batches = load(Source(), made=made)
    next(batches)
    time.sleep(0.2)
    assert len(made) <= (1 + loader.BATCHES_AHEAD) * 12 + loader.GROUP_SIZE
    batches.close()


class SlowSource(Source):
    """Records that take long to read; notes what it is asked to read, in order."""

    records_ahead = 30

    def __init__(self):
        super().__init__()
        self.asked = []

    def read_ahead(self, records):
        self.asked.append(("later", *records.tolist()))

    def prefetch(self, records):
        self.asked.append(("now", *records))


def test_records_of_slow_storage_are_asked_for_ahead_of_their_step():
    source = SlowSource()
    take(load(source, batch_size=12), 9)
    assert len(source.asked) == len(set(source.asked))
    for number in range(9):
        step = range(12 * number, 12 * number + 12)
        now, later = source.asked.index(("now", *step)), source.asked.index(("later", *step))
        assert later < now or number < 3  # the first steps begin together


def test_closing_ends_its_threads():
    before = threading.active_count()
    take(load(Source()), 3)
    assert threading.active_count() == before


PROGRAM = """
    import sys, time
    sys.path[:0] = [{root!r}, {here!r}]
    import test_loader
    batches = test_loader.load(test_loader.Source())
    next(batches)
    print("running", flush=True)
    {end}
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["", "raise SystemExit(7)", "for batch in batches: pass"])
def test_a_process_ends_in_the_middle_of_its_batches(end):
    program = textwrap.dedent(
        PROGRAM.format(root=str(ROOT), here=str(Path(__file__).parent), end=end)
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "running\n"
    if "for" in end:
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == {"": 0, "raise SystemExit(7)": 7}.get(end, -signal.SIGINT), errors
