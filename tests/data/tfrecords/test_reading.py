"""Reading by blocks: what is kept, what is ahead, and that records are the same as one by one."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from data.common.errors import UserError
from data.common.sharding import StepShard
from data.input import sampler
from data.tfrecords import reading, records
from data.tfrecords.examples import encode_example
from data.tfrecords.reading import (
    BlockReader,
    ReadOptions,
    block_begins,
    block_of,
    is_slow_to_begin,
)
from data.tfrecords.record_source import RecordSource
from data.tfrecords.records import RecordError

COUNTS = [5, 1, 17, 0, 8]
BLOCKS = ReadOptions("blocks", block_mib=0.0005, readers=3)


@pytest.fixture
def folder(tmp_path):
    number = 0
    for file, count in enumerate(COUNTS):
        with records.RecordWriter(tmp_path / f"{file}.tfrecords") as writer:
            for _ in range(count):
                image = bytes([number]) * (20 + 7 * number)
                writer.write(encode_example("sparse", image, f"{number}", 1, 1, [number], [1.0]))
                number += 1
    return tmp_path


def test_blocks_have_the_records_that_are_read_one_by_one(folder):
    singly = RecordSource(folder, 99, 0, reading=ReadOptions("records"))
    blocks = RecordSource(folder, 99, 0, reading=BLOCKS)
    assert singly.blocks == 0 and 1 < blocks.blocks < blocks.total
    for count in (1, 2, 7, blocks.total):
        blocks.read_in_blocks(count, kept=1)
        order = np.random.RandomState(0).permutation(singly.total)
        blocks.prefetch(order)
        for record in order.tolist():
            assert blocks.read(record).image == singly.read(record).image
            assert blocks.read(record).name == b"%d" % record


def test_a_block_is_as_large_as_asked_for(folder):
    source = RecordSource(folder, 99, 0, reading=BLOCKS)
    size = sum(path.stat().st_size for path in folder.glob("*.tfrecords"))
    assert size / source.blocks <= 0.0005 * 2**20 < size / (source.blocks - 1)


def test_a_damaged_record_in_a_block_spoils_no_other(folder):
    path = folder / "2.tfrecords"
    offset = int(records.read_index(path).offsets[3])
    data = bytearray(path.read_bytes())
    data[offset + 40] ^= 1
    path.write_bytes(data)
    source = RecordSource(folder, 99, 10, reading=BLOCKS)
    source.read_in_blocks(4, kept=4)
    with pytest.raises(RecordError, match="fails the CRC"):
        source.read(9)
    assert [source.read(record).name for record in (8, 10)] == [b"8", b"10"]


def test_a_file_that_was_cut_short_since_is_a_damaged_record(folder):
    source = RecordSource(folder, 99, 10, reading=BLOCKS)
    path = folder / "4.tfrecords"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(RecordError, match="bytes read where the record has"):
        source.read(source.total - 1)


def test_records_are_divided_into_blocks_of_nearly_one_size():
    begins = block_begins(17, 5)
    assert begins.tolist() == [0, 4, 7, 11, 14, 17]
    assert block_of(np.arange(17), 17, 5).tolist() == 4 * [0] + 3 * [1] + 4 * [2] + 3 * [3] + 3 * [
        4
    ]
    assert block_begins(3, 3).tolist() == [0, 1, 2, 3]


def test_few_blocks_are_kept_and_read_once_in_a_run(folder, monkeypatch):
    loaded, load = [], RecordSource._read_block
    monkeypatch.setattr(
        RecordSource, "_read_block", lambda source, n: loaded.append(n) or load(source, n)
    )
    source = RecordSource(folder, 99, 0, reading=BLOCKS)
    loaded.clear()  # of the look at the first record
    order = sampler.shuffled(source, 1, (100, 100), StepShard(2, first=0, count=1, total=1))
    assert isinstance(order, sampler.RandomSampler) and source.blocks > 3
    names = [source.read(record).name for record in order.records(0, 3 * source.total).tolist()]
    assert sorted(map(int, names)) == sorted(3 * list(range(source.total)))
    assert sorted(loaded) == list(range(source.blocks))


@pytest.fixture
def loads():
    """The numbers of blocks that a reader has loaded, and the reader, which keeps 3."""
    loaded = []

    def load(number):
        loaded.append(number)
        return {0: (number, b"")}

    return loaded, BlockReader(load, kept=3, readers=1)


def test_blocks_are_read_once_and_those_used_least_recently_are_dropped(loads):
    loaded, reader = loads
    reader.prefetch([4, 5, 4])
    assert [reader.block(number)[0][0] for number in (4, 5, 6, 4)] == [4, 5, 6, 4]
    assert loaded == [4, 5, 6]
    reader.block(7)  # 5 was used before 6 and 4
    reader.block(4)
    assert loaded == [4, 5, 6, 7]
    reader.block(5)
    assert loaded == [4, 5, 6, 7, 5]


def test_a_block_that_nobody_has_used_yet_is_not_dropped(loads):
    loaded, reader = loads
    reader.read_ahead([1])
    for number in range(10, 20):
        reader.block(number)
    reader.block(1)
    assert loaded == [1, *range(10, 20)]


def test_few_blocks_are_read_ahead_of_those_used_next(loads):
    loaded, reader = loads
    most = (reading.AHEAD + 1) * 1
    reader.read_ahead(range(9))
    reader.block(most - 1)
    assert loaded == list(range(most))
    reader.read_ahead([7, 8])
    reader.prefetch([8, 9])
    assert [reader.block(number)[0][0] for number in range(10)] == list(range(10))
    assert loaded[most:] == [7, 8, 9, 3, 4, 5, 6]


def test_a_block_that_cannot_be_read_raises_in_its_reader():
    def load(number):
        raise OSError(5, "no")

    with pytest.raises(OSError, match="no"):
        BlockReader(load, kept=3, readers=2).block(1)


def test_a_server_that_stays_away_is_waited_for_once():
    calls = []

    def load(number):
        calls.append(number)
        time.sleep(0.01)
        raise UserError(f"{number}: no answer; retried for 120 s")

    reader = BlockReader(load, kept=9, readers=2)
    reader.prefetch(range(20))
    for number in (0, 1, 19, 20):
        with pytest.raises(UserError, match=r"[01]: no answer"):
            reader.block(number)
    assert sorted(calls) == [0, 1]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder in place of /, for what the system says of itself."""
    monkeypatch.setattr(reading, "Path", lambda *parts: Path(f"{tmp_path}{os.path.join(*parts)}"))
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/cpuinfo").write_text("flags : fpu sse2\n")
    return tmp_path


def test_mount_points_may_have_any_name(root):
    mounts = [b"1 0 8:1 / / rw - ext4 /dev/sda1 rw", b"2 1 0:9 / /a\\040b rw - nfs4 host:/ rw"]
    mounts += [b"3 1 0:7 / /mnt/\xff\xe2\x80\xa8x rw - tmpfs tmpfs rw"]
    (root / "proc/self/mountinfo").write_bytes(b"\n".join(mounts) + b"\n")
    assert reading._mount("/a b/c") == ("nfs4", "0:9")
    assert reading._mount(os.fsdecode(b"/mnt/\xff\xe2\x80\xa8x")) == ("tmpfs", "0:7")
    assert reading._mount("/ab") == ("ext4", "8:1")


@pytest.mark.parametrize(("rotational", "virtual", "slow"), [(1, "", 1), (0, "", 0), (1, 1, 0)])
def test_disks_that_spin_are_slow_unless_they_are_virtual(root, rotational, virtual, slow):
    (root / "proc/self/mountinfo").write_text("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n")
    if virtual:
        (root / "proc/cpuinfo").write_text("flags : fpu hypervisor sse2\n")
    disk = root / "sys/devices/sda"
    (disk / "sda1").mkdir(parents=True)
    (disk / "queue").mkdir()
    (disk / "queue/rotational").write_text(f"{rotational}\n")
    (root / "sys/dev/block").mkdir(parents=True)
    (root / "sys/dev/block/8:1").symlink_to(disk / "sda1")
    assert is_slow_to_begin("/records/a") == bool(slow)


def test_which_storage_takes_long_to_begin_a_read(tmp_path, monkeypatch):
    assert is_slow_to_begin("s3://bucket/records/a")
    mounts = {"nfs4": True, "fuse.s3fs": True, "lustre": True, "ext4": False, "tmpfs": False}
    for kind, slow in mounts.items():
        monkeypatch.setattr(reading, "_mount", lambda path, kind=kind: (kind, "0:0"))
        assert is_slow_to_begin(str(tmp_path)) == slow


def test_the_file_system_of_a_path_is_the_deepest_mounted_above_it():
    kind, device = reading._mount("/proc/self/status")
    assert kind == "proc" and device.count(":") == 1
    assert reading._mount("/")[0] not in ("", "proc")
