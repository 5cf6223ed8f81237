"""Records at URLs are those of a local folder, whatever the server does."""

import dataclasses
import os
import shutil
import threading

import numpy as np
import pytest

from data.common import storage
from data.common.block_cache import RangeReader
from data.common.errors import UserError
from data.tfrecords import manifest, records
from data.tfrecords.examples import encode_example
from data.tfrecords.reading import ReadOptions
from data.tfrecords.record_source import RecordSource, find_at_url
from data.tfrecords.records import RecordError, RecordWriter

COUNTS, CLASSES = (5, 1, 17), 23  # a record for each class
URL = "s3://bucket/records"


def write(path, numbers):
    with RecordWriter(path) as writer:
        for number in numbers:
            image = bytes([number]) * (100 + 37 * number)
            writer.write(encode_example("sparse", image, f"{number}.jpg", 4, 3, [number], [1.0]))


@pytest.fixture
def folder(s3):
    path = s3.folder / "bucket" / "records"
    path.mkdir()
    first = 0
    for file, count in enumerate(COUNTS):
        write(path / f"{file:05}.tfrecords", range(first, first + count))
        first += count
    for other in (".hidden", "manifest.json", "bad_images.tsv"):
        (path / other).write_text("")
    return path


def contents(source, numbers=range(CLASSES)):
    found = []
    for number in numbers:
        image, name, classes, values = source.read(number)
        found.append((image, name, classes.tolist(), values.tolist()))
    return found


READINGS = [ReadOptions("records"), ReadOptions("blocks", 0.003)]


@pytest.mark.parametrize("reading", READINGS, ids=["records", "blocks"])
@pytest.mark.parametrize("fail_every", [0, pytest.param(10, marks=pytest.mark.slow)])
def test_they_are_those_of_the_local_folder(folder, s3, reading, fail_every, tmp_path):
    local = RecordSource(folder, CLASSES, 0)
    s3.fail_every = fail_every
    others = (f"{URL}/", f"{URL}/*.tfrecords", f"{s3.url}/bucket/records/")
    for url in (URL,) if fail_every else (URL, *others):
        source = RecordSource(url, CLASSES, 0, reading=reading)
        assert [os.path.basename(url) for url in source.files] == [
            os.path.basename(path) for path in local.files
        ]
        assert source.counts.tolist() == list(COUNTS)
        numbers = np.arange(source.total)
        source.prefetch(numbers)
        assert contents(source) == contents(local)
    assert (
        contents(RecordSource(f"{URL}/00002.tfrecords", CLASSES, 0), range(17))
        == (contents(local)[6:])
    )


def test_the_folder_above_has_train_and_val(folder):
    bucket = folder.parent
    folder.rename(bucket / "val")
    assert [file.url for file in find_at_url("s3://bucket", "val")] == [
        f"s3://bucket/val/0000{n}.tfrecords" for n in range(3)
    ]
    for nothing in ("s3://bucket", "s3://bucket/none", "s3://bucket/val/*.tar"):
        with pytest.raises(UserError, match=rf"{nothing.replace('*', '.')}: no record files there"):
            find_at_url(nothing)


def test_indexes_are_read_or_found_and_then_in_the_cache(folder, s3, tmp_path):
    path = folder / "00002.tfrecords"
    (file,) = storage.find(f"{URL}/00002.tfrecords")
    index = records.read_index(path)

    def parts_asked_for(ranges):
        s3.requests.clear()
        found = records.read_index_at_url(file, ranges)
        np.testing.assert_array_equal(found.offsets, index.offsets)
        np.testing.assert_array_equal(found.sizes, index.sizes)
        assert found.problem == ""
        begin = "GET /bucket/records/00002.tfrecords bytes="
        return [name.removeprefix(begin) for name in s3.requests if name.startswith(begin)]

    last = int(index.offsets[-1])
    assert parts_asked_for(RangeReader()) == [f"{last}-{last + 11}"]
    third, rest = file.size // 3, file.size - file.size // 3
    for text in ("0 19\n", "x", f"0 {third}\n{third} {rest}\n"):  # the last one is of its size
        (folder / "00002.tfrecords.idx").write_text(text)
        assert parts_asked_for(RangeReader())[-1] == "0-8388607"
    os.unlink(f"{path}.idx")
    cached = RangeReader(str(tmp_path / "cache"))
    assert parts_asked_for(cached) == ["0-8388607"]
    assert parts_asked_for(cached) == parts_asked_for(RangeReader(str(tmp_path / "cache"))) == []
    assert not s3.requests


def test_damaged_files_are_reported_as_local_ones_are(folder, s3, caplog, tmp_path):
    path = folder / "00002.tfrecords"
    offset = int(records.read_index(path).offsets[4])
    os.truncate(path, offset + 5)
    reading = ReadOptions(cache_dir=str(tmp_path / "cache"))
    for _ in range(2):
        assert RecordSource(URL, CLASSES, 1, reading=reading).counts.tolist() == [5, 1, 4]
    damage = f"{URL}/00002.tfrecords: record 4 at byte {offset}: the file ends inside its header"
    assert [damage in text for text in caplog.messages] == [True, True]
    path.write_bytes(b"\x1f\x8b" + bytes(30))
    with pytest.raises(UserError, match=r"00002\.tfrecords: not a TFRecord file; it is compressed"):
        RecordSource(URL, CLASSES, 1)


@pytest.mark.parametrize("name", ["00002.tfrecords", "part[2].tfrecords"])
def test_a_record_damaged_in_the_store_is_one_bad_record(folder, name):
    path = folder / name
    for suffix in ("", ".idx"):
        (folder / f"00002.tfrecords{suffix}").rename(f"{path}{suffix}")
    index = records.read_index(path)
    os.utime(f"{path}.idx")
    with open(path, "r+b") as file:
        file.seek(int(index.offsets[3]) + 50)
        file.write(b"?")
    source = RecordSource(URL, CLASSES, 1)
    for _ in range(2):
        with pytest.raises(RecordError, match="its payload fails the CRC"):
            source.read(9)
        source.reject(9, "its payload fails the CRC")
    assert len(contents(source, [8, 10])) == 2
    assert source.where(9) == f"{URL}/{name}: record 3"


def test_a_record_damaged_on_its_way_into_the_cache_is_read_again(folder, tmp_path, monkeypatch):
    def flip(content):
        return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]

    read, flipped = storage.read, []
    reading = dataclasses.replace(READINGS[0], cache_dir=str(tmp_path / "cache"))
    source = RecordSource(URL, CLASSES, 0, reading=reading)
    monkeypatch.setattr(storage, "read", lambda *a: flipped.append(a) or flip(read(*a)))
    source.prefetch([9])
    with pytest.raises(RecordError, match="its payload fails the CRC"):
        source.read(9)
    monkeypatch.setattr(storage, "read", read)
    for reader in source, RecordSource(URL, CLASSES, 0, reading=reading):
        assert reader.read(9).name == b"9.jpg"
    assert len(flipped) == 2


@pytest.mark.parametrize("reading", READINGS, ids=["records", "blocks"])
def test_a_file_that_changes_in_the_middle_is_an_error(folder, reading):
    source = RecordSource(URL, CLASSES, 1, reading=reading)
    source.read(0)
    write(folder / "00002.tfrecords", range(21, 2, -1))
    with pytest.raises(UserError, match=r"00002\.tfrecords: changed while it was being read"):
        contents(source, [12, 13, 14])


@pytest.mark.slow
def test_a_server_that_starts_anew_is_waited_for(folder, s3):
    local = RecordSource(folder, CLASSES, 0)
    source = RecordSource(URL, CLASSES, 0, reading=READINGS[1])
    s3.stop()
    threading.Timer(0.3, s3.start).start()
    assert contents(source) == contents(local)


def test_with_a_cache_no_part_is_asked_for_twice(folder, s3, tmp_path):
    local = contents(RecordSource(folder, CLASSES, 0))
    for reading in READINGS:
        reading = dataclasses.replace(reading, cache_dir=str(tmp_path / "cache"))
        s3.requests.clear()
        for _ in range(2):
            assert contents(RecordSource(URL, CLASSES, 0, reading=reading)) == local
        assert {n for name, n in s3.requests.items() if ".tfrecords bytes" in name} == {1}


@pytest.mark.slow
def test_label_counts_are_those_of_the_manifest(folder, s3):
    counts = RecordSource(folder, CLASSES, 0).class_counts()
    source = RecordSource(URL, CLASSES, 0, reading=READINGS[1])
    assert source.class_counts().tolist() == counts.tolist() == [1] * CLASSES
    shards = manifest.ShardFolder(folder)
    shutil.rmtree(folder)
    for name in "ab":
        with manifest.ShardWriter(folder / f"{name}.tfrecords") as writer:
            writer.add(encode_example("sparse", b"i", "n", 4, 3, [7], [1.0]), [7], 1, True)
        shards.add(writer.report("rows"))
    shards.finish()
    s3.requests.clear()
    assert RecordSource(URL, CLASSES, 0).class_counts().tolist()[7] == 2
    assert s3.requests["GET /bucket/records/manifest.json"] == 1
    reports, problems = manifest.verify(URL, 2)
    assert [report.rows for report in reports] == [1, 1] and problems == []
    (folder / "a.tfrecords").write_bytes((folder / "b.tfrecords").read_bytes()[:-1] + b"?")
    (folder / "c.tfrecords").write_bytes(b"")
    assert manifest.verify(f"{URL}/", 1)[1] == [
        f"{URL}/a.tfrecords: its SHA-256 does not match the manifest",
        f"{URL}/c.tfrecords: not in the manifest",
    ]
    with pytest.raises(UserError, match=r"s3://bucket/manifest\.json is missing"):
        manifest.verify("s3://bucket", 1)
