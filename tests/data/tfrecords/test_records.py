"""TFRecord files written and read without TensorFlow, checked against TensorFlow."""

import os

import numpy as np
import pytest
import tensorflow as tf

from data.tfrecords import example_codec, records
from data.tfrecords.records import RecordError, RecordWriter

PAYLOADS = [b"", b"x" * 5, bytes(range(256)) * 600]


def write(path, payloads=PAYLOADS):
    with RecordWriter(path) as writer:
        for payload in payloads:
            writer.write(payload)
    return path


def example(kind, classes=(3, 0), confidences=(0.5, -1.0)):
    return records.encode_example(
        kind, b"\xff\xd8jpeg", "a/ä.jpg", 500, 375, classes, confidences, 5
    )


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


@pytest.mark.parametrize("kind", records.KINDS)
def test_example_equals_tensorflows(kind):
    classes, confidences = ((3,), (1.0,)) if kind == "single" else ((3, 0), (0.5, -1.0))
    payload = example(kind, classes, confidences)
    feature = tf.train.Example.FromString(payload).features.feature
    assert feature["image"].bytes_list.value[0] == b"\xff\xd8jpeg"
    assert feature["name"].bytes_list.value[0] == "a/ä.jpg".encode()
    assert feature["width"].int64_list.value[:] == [500]
    assert feature["height"].int64_list.value[:] == [375]
    if kind == "sparse":
        assert feature["label_index"].int64_list.value[:] == [3, 0]
        assert feature["label_value"].float_list.value[:] == [0.5, -1.0]
    elif kind == "dense":
        label = np.frombuffer(feature["label"].bytes_list.value[0], np.float32)
        np.testing.assert_array_equal(label, np.float32([-1, 0, 0, 0.5, 0]))
    else:
        assert feature["label"].int64_list.value[:] == [3]


@pytest.mark.parametrize("kind", records.KINDS)
@pytest.mark.parametrize("confidence", [1.0, 0.25, 1e-50, 0.0, -1.0])
def test_positive_labels_are_those_that_are_stored(kind, confidence):
    """1e-50 is 0 in float32; a single label has no confidence, so it is positive."""
    classes = [3] if kind == "single" else [3, 0]
    confidences = [confidence, 1.0][: len(classes)]
    payload = records.encode_example(kind, b"", "a", 1, 1, classes, confidences, 5)
    found = example_codec.positives_of(kind, classes, confidences)
    assert sorted(found) == sorted(example_codec.positive_classes(payload))
    assert (3 in found) == (kind == "single" or confidence in (1.0, 0.25))


def test_decoding_reads_tensorflows_messages():
    message = tf.train.Example()
    message.features.feature["i"].int64_list.value[:] = [0, 1, 127, 128, 1 << 40, -1, -(1 << 63)]
    message.features.feature["f"].float_list.value[:] = [0.5, -2.0]
    message.features.feature["b"].bytes_list.value[:] = [b"", b"ab"]
    message.features.feature["empty"].SetInParent()
    assert records.decode_example(message.SerializeToString()) == {
        "i": [0, 1, 127, 128, 1 << 40, -1, -(1 << 63)],
        "f": [0.5, -2.0],
        "b": [b"", b"ab"],
        "empty": [],
    }


@pytest.mark.parametrize("payload", [b"\x0a\xff", b"\x0a\x05ab", b"\xff", b"\x0b\x00"])
def test_a_payload_that_is_no_example_is_an_error(payload):
    with pytest.raises(RecordError, match=r"not a tf\.train\.Example"):
        records.decode_example(payload)


@pytest.mark.parametrize(
    ("kind", "classes", "confidences", "class_num", "message"),
    [
        ("single", [1, 2], None, None, "2 classes, a single-label record takes one"),
        ("dense", [1], None, None, "give class_num"),
        ("dense", [5], None, 5, r"label 5 is out of range \[0, 5\)"),
        ("sparse", [1], [1.0, 0.5], None, "1 classes but 2 confidences"),
        ("desne", [1], None, None, "not one of sparse, dense, single"),
    ],
)
def test_labels_that_do_not_fit_the_kind(kind, classes, confidences, class_num, message):
    with pytest.raises(RecordError, match=message):
        records.encode_example(kind, b"", "a", 1, 1, classes, confidences, class_num)


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
