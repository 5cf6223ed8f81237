"""Files at URLs: found, read and written through failures; mistakes in one line."""

import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from data.common import storage
from data.common.errors import UserError
from data.common.parallel import ordered_map

CONTENT = bytes(range(256)) * 5000


@pytest.fixture
def bucket(s3):
    for name in ("a/one.bin", "a/two.bin", "a/.hidden", "a/deep/three.bin", "b[1]/four"):
        path = s3.folder / "bucket" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(CONTENT)
    return s3


def names(found):
    return [file.url.removeprefix("s3://bucket/") for file in found]


def test_folders_globs_and_files_are_found(bucket):
    assert names(storage.find("s3://bucket/a/")) == ["a/.hidden", "a/one.bin", "a/two.bin"]
    assert names(storage.find("s3://bucket/a/t*.bin")) == ["a/two.bin"]
    assert names(storage.find("s3://bucket/*/*/*.bin")) == ["a/deep/three.bin"]
    (file,) = storage.find("s3://bucket/a/one.bin")
    assert file.size == len(CONTENT) and len(file.version) > 8
    assert file in storage.find("s3://bucket/a")
    assert names(storage.below("s3://bucket/a"))[2:] == ["a/one.bin", "a/two.bin"]
    for nothing in ("s3://bucket/c", "s3://bucket/c/*", "s3://elsewhere/a"):
        assert storage.find(nothing) == []
    assert storage.below("s3://bucket/c") == []


def test_parts_of_files_are_read(bucket):
    url = "s3://bucket/a/one.bin"
    assert storage.read(url) == CONTENT
    assert storage.read(url, 7, 300) == CONTENT[7:307]
    assert storage.read(url, len(CONTENT) - 5) == CONTENT[-5:]
    assert storage.read(url, len(CONTENT) - 5, 100) == CONTENT[-5:]
    assert storage.read(url, len(CONTENT), 100) == b""
    storage.write("s3://bucket/empty", b"")
    assert storage.read("s3://bucket/empty") == b""


def test_files_are_written_copied_and_deleted(bucket, tmp_path):
    url = "s3://bucket/new/file"
    storage.write(url, b"first")
    before = storage.find(url)
    storage.write(url, b"other")
    assert storage.read(url) == b"other" and storage.find(url) != before
    (tmp_path / "here").write_bytes(CONTENT)
    storage.upload(tmp_path / "here", url)
    storage.download(url, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == CONTENT
    storage.delete(url)
    storage.delete(url)
    assert storage.find(url) == []
    with pytest.raises(FileNotFoundError, match="s3://bucket/new/file: no such file or bucket"):
        storage.read(url)


@pytest.mark.slow
def test_one_failure_in_three_changes_nothing(bucket):
    bucket.fail_every = 3
    with ThreadPoolExecutor(8) as pool:
        parts = pool.map(lambda n: storage.read("s3://bucket/a/one.bin", n, 9), range(16))
        assert list(parts) == [CONTENT[n : n + 9] for n in range(16)]
    assert len(storage.find("s3://bucket/a")) == 3
    storage.write("s3://bucket/new", b"content")
    assert storage.read("s3://bucket/new") == b"content"


def test_a_server_that_starts_anew_is_waited_for(bucket):
    storage.read("s3://bucket/a/one.bin", 0, 9)
    bucket.stop()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(storage.read, "s3://bucket/a/one.bin", 0, 9)
        time.sleep(0.3)
        assert not reading.done()
        bucket.start()
        assert reading.result(10) == CONTENT[:9]


def _in_child(number):
    return storage.read("s3://bucket/a/one.bin", number, 9)


def test_forked_processes_have_connections_of_their_own(bucket):
    assert _in_child(0) == CONTENT[:9]
    assert list(ordered_map(_in_child, range(4), 2)) == [CONTENT[n : n + 9] for n in range(4)]


def refused(url, action=storage.find):
    """The one line in which a mistake ends, soon."""
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        action(url)
    assert time.monotonic() - start < 10  # whatever keeps the machine busy
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_denied_access_ends_at_once(bucket, monkeypatch, tmp_path):
    assert "s3://denied/a: access denied" in refused("s3://denied/a")
    assert "access denied" in refused("s3://denied/a", storage.read)
    http = f"{bucket.url}/denied/a"
    assert f"{http}: access denied" in refused(http, storage.read)
    assert f"{http}: access denied" in refused(http)


def test_missing_credentials_end_at_once(bucket, monkeypatch, tmp_path):
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()
    text = refused("s3://bucket/a/one.bin", storage.read)
    assert "s3://bucket/a/one.bin: access denied" in text and "check the credentials" in text


@pytest.mark.slow
def test_a_server_that_stays_away_is_an_error_after_a_while(bucket, monkeypatch):
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0.4)
    bucket.stop()
    assert "s3://bucket/a: EndpointConnectionError: Could not connect" in refused("s3://bucket/a")
    assert ", for 0.4 s now" in refused(f"{bucket.url}/bucket/a/one.bin")
    bucket.start()
    bucket.fail_every = 1
    assert "s3://bucket/a: OSError" in refused("s3://bucket/a")


def test_what_is_no_url_of_ours_is_an_error(monkeypatch):
    assert "nonsense://x: Protocol not known: nonsense" in refused("nonsense://x")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    assert 'URLs need pip install -e ".[cloud]"' in refused("s3://bucket/a")
    assert storage.is_url("s3://a") and not storage.is_url("a/s3") and not storage.is_url("c:/a")


def test_web_servers_have_folders_where_they_list_them(bucket):
    web = f"{bucket.url}/bucket"
    assert [file.url for file in storage.find(f"{web}/a/")] == [
        f"{web}/a/{name}" for name in (".hidden", "one.bin", "two.bin")
    ]
    assert [file.url for file in storage.find(f"{web}/a/t*.bin")] == [f"{web}/a/two.bin"]
    (file,) = storage.find(f"{web}/a/one.bin?token=*")
    assert file.size == len(CONTENT) and file.version
    assert storage.read(file.url, 5, 10) == CONTENT[5:15]
    assert storage.find(f"{web}/a/none") == []


def test_a_server_without_ranges_is_an_error(bucket, monkeypatch):
    monkeypatch.setattr("benchmarks.s3_server._RANGE", re.compile("none"))
    url = f"{bucket.url}/bucket/a/one.bin"
    assert "the server has no ranges of bytes" in refused(url, lambda url: storage.read(url, 0, 9))


@pytest.mark.parametrize("place", ["memory://", "file://"])
def test_other_kinds_of_storage(place, tmp_path):
    folder = f"{place}{tmp_path}/x"
    os.makedirs(tmp_path / "x")
    storage.write(f"{folder}/a", CONTENT)
    (file,) = storage.find(folder)
    assert (file.url, file.size) == (f"{folder}/a", len(CONTENT)) and file.version
    assert storage.read(file.url, 3, 4) == CONTENT[3:7] and storage.find(f"{folder}/?") == [file]
    storage.delete(file.url)
    assert storage.below(folder) == []
    assert f"{file.url}: no such file or bucket" in refused(file.url, storage.read)


def test_a_full_disk_ends_a_download(bucket):
    with pytest.raises(UserError, match=r"s3://bucket/a/one\.bin: OSError: .*No space left"):
        storage.download("s3://bucket/a/one.bin", "/dev/full")


@pytest.mark.slow
def test_it_works_with_the_s3_of_others(s3, tmp_path, monkeypatch):
    """Moto's, which also takes uploads in parts."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        s3fs.S3FileSystem.clear_instance_cache()
        assert storage.find("s3://bucket/a") == []
        s3fs.S3FileSystem().mkdir("bucket")
        large = os.urandom(101 << 20)
        storage.write("s3://bucket/a/large", large)
        (tmp_path / "large").write_bytes(large)
        storage.upload(tmp_path / "large", "s3://bucket/a/uploaded")
        assert [file.size for file in storage.find("s3://bucket/a")] == 2 * [len(large)]
        assert storage.read("s3://bucket/a/uploaded", 99 << 20, 100) == large[99 << 20 :][:100]
        storage.download("s3://bucket/a/large", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == large
        storage.write("s3://bucket/empty", b"")
        assert storage.read("s3://bucket/empty") == b""
        assert storage.read("s3://bucket/a/large", len(large), 5) == b""
        assert storage.find("s3://elsewhere/a") == []
    finally:
        server.stop()
