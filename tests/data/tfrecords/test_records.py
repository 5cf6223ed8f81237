"""TFRecord files written and read without TensorFlow, checked against TensorFlow."""

import os

import pytest
import tensorflow as tf

from data.tfrecords import records
from data.tfrecords.records import RecordError, RecordWriter

PAYLOADS = [b"", b"x" * 5, bytes(range(256)) * 600]


def write(path, payloads=PAYLOADS):
    with RecordWriter(path) as writer:
        for payload in payloads:
            writer.write(payload)
    return path


def test_tensorflow_reads_what_we_write(tmp_path):
    path = write(tmp_path / "shard")
    assert [r.numpy() for r in tf.data.TFRecordDataset(str(path))] == PAYLOADS


def test_we_read_what_tensorflow_writes(tmp_path):
    path = tmp_path / "shard.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for payload in PAYLOADS:
            writer.write(payload)
    assert list(records.read_records(path)) == PAYLOADS
    assert (tmp_path / "shard.tfrecord.idx").exists()


def test_index_lines_are_offset_and_size_with_framing(tmp_path):
    path = write(tmp_path / "shard", [b"abc", b""])
    assert (tmp_path / "shard.idx").read_text() == "0 19\n19 16\n"
    index = records.read_index(path)
    assert index.offsets.tolist() == [0, 19]
    assert index.sizes.tolist() == [19, 16]


@pytest.mark.parametrize(
    "stored", ["0 19\n19 17\n", "0 19\n", "1 18\n19 16\n", "0 x\n", "0 19 19\n"]
)
def test_a_stored_index_that_disagrees_is_replaced(tmp_path, stored):
    path = write(tmp_path / "shard", [b"abc", b""])
    (tmp_path / "shard.idx").write_text(stored)
    assert records.read_index(path).sizes.tolist() == [19, 16]
    assert (tmp_path / "shard.idx").read_text() == "0 19\n19 16\n"


def test_a_stale_index_is_not_believed(tmp_path):
    path = write(tmp_path / "shard", [b"abcd", b"ab"])
    old = (tmp_path / "shard.idx").read_text()
    write(path, [b"ab", b"abcd"])  # the same size, other records
    (tmp_path / "shard.idx").write_text(old)
    os.utime(tmp_path / "shard.idx", ns=(0, 0))
    assert records.read_index(path).sizes.tolist() == [18, 20]


def test_a_file_cut_short_keeps_the_records_before_the_cut(tmp_path):
    path = write(tmp_path / "shard", [b"abc", b"defg", b"hi"])
    with open(path, "r+b") as file:
        file.truncate(35)
    index = records.read_index(path)
    assert index.offsets.tolist() == [0]
    assert "record 1 at byte 19: the file ends inside it; the last 16 bytes" in index.problem
    assert str(path) in index.problem


def test_a_damaged_length_ends_the_index(tmp_path):
    path = write(tmp_path / "shard", [b"abc", b"defg", b"hi"])
    (tmp_path / "shard.idx").unlink()
    flip_byte(path, 19)
    index = records.read_index(path)
    assert index.sizes.tolist() == [19]
    assert "record 1 at byte 19: its length fails the CRC" in index.problem
    assert not (tmp_path / "shard.idx").exists()


def test_a_damaged_payload_is_found_when_it_is_read(tmp_path):
    path = write(tmp_path / "shard", [b"abc", b"defg"])
    flip_byte(path, 19 + 12)
    with pytest.raises(RecordError, match=r"shard: record 1: its payload fails the CRC"):
        list(records.read_records(path))


def test_an_index_that_points_elsewhere_is_found_when_it_is_read(tmp_path):
    path = write(tmp_path / "shard", [b"abc", b"defg"])
    with open(path, "rb") as file:
        for offset, size, message in [(0, 20, "length"), (1, 19, "CRC"), (19, 40, "20 bytes read")]:
            with pytest.raises(RecordError, match=message):
                records.read_record(file.fileno(), offset, size)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"this is not a record file", "not a TFRecord file"), (b"\x1f\x8b" + b"0" * 30, "gzip -d")],
)
def test_a_file_of_another_format(tmp_path, content, message):
    (tmp_path / "notes.txt").write_bytes(content)
    with pytest.raises(RecordError, match=message):
        records.read_index(tmp_path / "notes.txt")
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_a_failed_write_leaves_no_file_and_keeps_the_old_one(tmp_path):
    path = write(tmp_path / "shard", [b"old"])
    with pytest.raises(RuntimeError), RecordWriter(path) as writer:
        writer.write(b"new")
        raise RuntimeError
    assert sorted(os.listdir(tmp_path)) == ["shard", "shard.idx"]
    assert list(records.read_records(path)) == [b"old"]


def test_nothing_shows_under_the_name_until_the_end(tmp_path):
    with RecordWriter(tmp_path / "shard") as writer:
        writer.write(b"abc")
        assert not (tmp_path / "shard").exists()
        assert writer.count == 1
    assert sorted(os.listdir(tmp_path)) == ["shard", "shard.idx"]


def test_a_file_without_records(tmp_path):
    path = write(tmp_path / "shard", [])
    assert records.read_index(path).sizes.tolist() == []
    assert list(records.read_records(path)) == []


def flip_byte(path, at):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
